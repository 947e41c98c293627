"""Byte-pair encoding: merges as a slow learner finds them, applied by fastBPE as they were learned, and undone."""

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import List, Tuple

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lamemo_fairseq.cli.main import main
from lamemo_fairseq.data.prepare import bpe, corpus, forms

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


@given(LINES, st.integers(1, 5))
def test_frequent_words_stay_of_too_many(lines: List[str], most: int) -> None:
    """A word is left out only where as many others were at least as frequent, give or take what was forgotten."""
    whole, kept = Counter(word for line in lines for word in line.split()), bpe.frequent(lines, most)
    assert len(kept) <= most and (len(whole) > most or kept == whole)
    assert all(times <= whole[word] for word, times in kept.items())


def test_a_word_that_stays_frequent_is_kept(capsys: pytest.CaptureFixture) -> None:
    lines = [f"the rare{number} the" for number in range(100)]
    assert bpe.frequent(lines, 10).most_common(1) == [("the", 200)]
    assert "more than 10 different words" in capsys.readouterr().out


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


@pytest.mark.parametrize("flags", [["--bpe", "7"], ["--codes", "codes"]], ids=lambda flags: flags[0])
def test_without_fastbpe(
    tmp_path: Path, flags: List[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to install, before anything is read or written."""
    monkeypatch.setattr("sys.argv", ["lamemo"])
    monkeypatch.setitem(sys.modules, "fastBPE", None)
    (tmp_path / "text").write_text("low lower\n" * 40)
    words = ["prepare", "text", "--text", tmp_path / "text", "--dest", tmp_path / "out", *flags]
    assert main([str(word) for word in words]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"lamemo prepare: {' '.join(flags)} cannot be used, fastBPE is not installed: pip install ")
    assert said.count("\n") == 1 and "--no-build-isolation fastBPE" in said and not (tmp_path / "out").exists()


def test_a_sample_is_drawn_from_the_whole_text() -> None:
    lines = [f"{number:03}" for number in range(100)] + ["", "  "]
    assert forms.sample(lines, 300) == lines[:100]
    assert forms.sample(lines, 299) == lines[:100:2]
    assert forms.sample(iter(lines), 80) == lines[:100:4]
    assert forms.sample(["long"], 1) == ["long"]


def test_a_corpus_of_pieces(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastBPE")
    monkeypatch.setattr("sys.argv", ["lamemo"])
    text = tmp_path / "text"
    text.write_text("low lower lowest\nnewer wider low\n\n" * 40, encoding="utf-8")
    splits = [part for split in corpus.SPLITS for part in (f"--{split}", str(text))]

    def run(*flags: str, code: int = 0) -> str:
        assert main(["prepare", "text", "--dest", str(tmp_path / "out"), *splits, *flags]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    assert "learning 7 merges" in run("--bpe", "7")
    assert len((tmp_path / "out" / "codes").read_text().splitlines()) == 7
    assert (tmp_path / "out" / "train.txt").read_text().startswith("low ")
    assert (tmp_path / "out" / "data-bin" / "train.bin").exists()
    assert "learning" not in run("--bpe", "7")  # it is there
    assert "--force" in run("--bpe", "8", code=1)  # other merges, another corpus
    assert "learning 8 merges" in run("--bpe", "8", "--force")
    problem = "lamemo prepare: --bpe 0 merges nothing: give a number above 0, e.g. 8000\n"
    assert run("--bpe", "0", code=1) == problem
