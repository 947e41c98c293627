"""Runs that would silently do less than their flags promise: a warning with what would help, from the real commands."""

import re
from pathlib import Path
from typing import List

import pytest
from commands import preprocess
from conftest import TINY, run


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text without blank lines."""
    return preprocess(tmp_path_factory.mktemp("words"), 500)


def warned(output: str, split: str) -> List[str]:
    return re.findall(rf"WARNING.*data.checks.*split {split}: (.*)", output)


def test_streams_shorter_than_a_segment(corpus: Path, tmp_path: Path) -> None:
    """The largest batch size that is named gives no warning, and one more does."""
    flags = [*TINY, "--max-update", 2, "--disable-validation", "--no-save"]
    output = run("train", corpus, *flags, "--batch-size", 2000, "--save-dir", tmp_path).stdout
    (line,) = warned(output, "train")
    assert "2000 streams (--batch-size times ranks)" in line and "hold 7 each" in line
    (largest,) = map(int, re.findall(r"choose --batch-size (\d+) or less", line))
    for batch, times in ((largest, 0), (largest + 1, 1)):
        output = run("train", corpus, *flags, "--batch-size", batch, "--save-dir", tmp_path).stdout
        assert len(warned(output, "train")) == times, batch


def test_it_is_said_once_for_each_split(words: Path, tmp_path: Path) -> None:
    flags = [*TINY, "--batch-size", 100, "--max-epoch", 3, "--no-save"]
    output = run("train", words, *flags, "--save-dir", tmp_path).stdout
    assert len(warned(output, "train")) == len(warned(output, "valid")) == 1


def test_documents_that_never_end(words: Path, corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    flags = [*TINY, "--max-update", 1, "--no-save", "--memory-reset", "document", "--save-dir", tmp_path]
    lines = warned(run("train", words, *flags, "--disable-validation").stdout, "train")
    assert lines and "clears no memory, since a blank line stands nowhere in its" in lines[0]
    assert not warned(run("train", corpus, *flags, "--disable-validation").stdout, "train")
    symbol = ["--document-separator", "madeupword0000"]
    lines = warned(run("train", corpus, *flags, *symbol, "--disable-validation").stdout, "train")
    assert lines and "--document-separator madeupword0000 stands nowhere" in lines[0]
    scored = [
        "--path",
        checkpoint,
        "--gen-subset",
        "test",
        "--task",
        "memory_language_modeling",
        "--tokens-per-sample",
        16,
    ]
    output = run("eval-lm", corpus, *scored, "--memory-reset", "document", *symbol).stdout
    assert len(warned(output, "test")) == 1
