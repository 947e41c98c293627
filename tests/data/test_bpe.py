"""Byte-pair encoding: merges as a slow learner finds them, applied by fastBPE as they were learned, and undone."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import List, Tuple

import bpe
import corpus
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

LINES = st.lists(st.text("abc é  ", max_size=20), max_size=6)


def slowly(lines: List[str], merges: int) -> Tuple[List[bpe.Merge], List[List[str]]]:
    """All pairs counted again for each merge; also the text's words in pieces."""
    words = [[*word[:-1], word[-1] + "</w>"] for line in lines for word in line.split()]
    found = []
    for _ in range(merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        most = max(counts.values())
        left, right = min(pair for pair, count in counts.items() if count == most)
        found.append((left, right, most))
        for word in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == (left, right):
                    word[at : at + 2] = [left + right]
                at += 1
    return found, words


@given(LINES, st.integers(1, 12))
def test_merges_are_those_of_a_slow_learner(lines: List[str], merges: int) -> None:
    # Overlapping pairs ("aaa") count twice, for both.
    assert bpe.learn(lines, merges) == slowly(lines, merges)[0]


def test_applied_as_learned_and_undone(tmp_path: Path) -> None:
    pytest.importorskip("fastBPE")
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    lines += ["a\ttab", "a\xa0b c\x0cd", ""]  # blanks of all kinds part words
    merges, words = slowly(lines, 150)
    bpe.write(tmp_path / "codes", merges)
    cut = list(bpe.apply(tmp_path / "codes", lines))
    assert len(cut) == len(lines)
    assert [line.replace("@@ ", "") for line in cut] == [" ".join(line.split()) for line in lines]
    pieces = [piece.removesuffix("</w>") for word in words for piece in word]
    assert [piece.removesuffix("@@") for line in cut for piece in line.split()] == pieces


def test_a_corpus_of_pieces(tmp_path: Path) -> None:
    pytest.importorskip("fastBPE")
    text = tmp_path / "text"
    text.write_text("low lower lowest\nnewer wider low\n\n" * 40, encoding="utf-8")
    command = [sys.executable, str(ROOT / "scripts" / "prepare_text.py"), "--dest", str(tmp_path / "out")]
    command += [part for split in corpus.SPLITS for part in (f"--{split}", str(text))]

    def run(*flags: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *flags], capture_output=True, text=True)

    first = run("--bpe", "7")
    assert first.returncode == 0 and "learning 7 merges" in first.stdout, first.stderr
    assert len((tmp_path / "out" / "codes").read_text().splitlines()) == 7
    assert (tmp_path / "out" / "train.txt").read_text().startswith("low ")
    assert (tmp_path / "out" / "data-bin" / "train.bin").exists()
    assert "learning" not in run("--bpe", "7").stdout  # it is there
    assert "learning 8 merges" in run("--bpe", "8").stdout  # other merges, another corpus
    wrong = run("--bpe", "0")
    assert wrong.returncode == 1
    assert wrong.stderr == "prepare_text: --bpe 0 merges nothing: give a number above 0, e.g. 8000\n"
