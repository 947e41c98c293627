"""Scores are divided by what the ORIGINAL text holds, whatever it was cut into, and unknown words are told of."""

import math
import re
import shutil
from pathlib import Path
from pydoc_data import topics
from typing import Any, Dict, List, NamedTuple

import pytest
from commands import Command
from conftest import TINY, USER_DIR
from eval_reports import eval_lm, report

from lamemo_fairseq.cli.main import main as lamemo
from lamemo_fairseq.data.counts import TextCounts
from lamemo_fairseq.evaluation.scoring import Score

FORMS: Dict[str, List[str]] = {
    "words": ["--words"],
    "characters": ["--characters"],
    "bytes": ["--bytes"],
    "bpe": ["--bpe", "120"],
    "sentencepiece": ["--sentencepiece", "120"],
    "moses": ["--words", "--moses", "en"],
}


class Scored(NamedTuple):
    """A form of text, the folder of its data-bin and model, what fairseq-eval-lm printed, and its report."""

    form: str
    folder: Path
    output: str
    found: Dict[str, Any]


@pytest.fixture(scope="module")
def lines() -> "tuple[List[str], List[str]]":
    """Text to train on, and text of which about each seventh word is new; with letters beyond ASCII."""
    text = [line.strip() for _, topic in sorted(topics.topics.items()) for line in topic.splitlines()]
    text = [line for line in text if line]
    new = [f"Übermut, {line} strange{number}'s end" for number, line in enumerate(text[60:100])]
    return text[:300], [*new[:20], "", *new[20:]]


@pytest.fixture(scope="module", params=FORMS)
def scored(request: Any, lines: Any, tmp_path_factory: pytest.TempPathFactory) -> "Scored":
    """A model of each form."""
    form, folder = request.param, tmp_path_factory.mktemp(request.param)
    for split, text in {"train": lines[0], "valid": lines[0][:9], "test": lines[1]}.items():
        (folder / split).write_text("\n".join(text) + "\n", encoding="utf-8")
    texts = [word for split in ("train", "valid", "test") for word in (f"--{split}", str(folder / split))]
    assert lamemo(["prepare", "text", *texts, "--dest", str(folder / "corpus"), *FORMS[form]]) == 0
    data = folder / "corpus/data-bin"
    base = [data, *TINY, "--user-dir", USER_DIR, "--cpu", "--disable-validation", "--max-update", 2]
    Command("train", [*base, "--save-dir", folder], folder / "train.log").succeed()
    output = eval_lm(data, folder / "checkpoint_last.pt", folder / "log", "--batch-size", 2).succeed()
    return Scored(form, folder, output, report(output))


def test_every_form_is_divided_by_the_original_text(scored: Scored, lines: Any) -> None:
    form, _, output, found = scored
    text = "\n".join(lines[1]) + "\n"
    assert found["source"] == "the original text has them"
    assert found["characters"] == len(text)
    assert found["bytes"] == len(text.encode()) > len(text)
    assert found["words"] == len(text.split()) + len(lines[1])
    assert found["plain_words"] == len(text.split())
    nats = found["loss"] * found["scored"]
    assert found["bpc"] == pytest.approx(nats / math.log(2) / len(text), abs=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), abs=1e-5)
    assert math.log(found["word_perplexity"]) == pytest.approx(nats / found["words"], abs=1e-4)
    assert math.log(found["plain_word_perplexity"]) == pytest.approx(nats / len(text.split()), abs=1e-4)


def test_unknown_words_are_counted_and_warned_of(scored: Scored, lines: Any) -> None:
    form, _, output, found = scored
    known = set("\n".join(lines[0]).split())
    if form == "words":
        assert found["unknown"] == sum(word not in known for word in "\n".join(lines[1]).split())
    assert found["unknown_percent"] == pytest.approx(100 * found["unknown"] / found["scored"], abs=0.006)
    warned = re.search(r"WARNING.*test: [\d.]+ % of the targets are <unk>.*", output)
    assert bool(warned) == (100 * found["unknown"] > found["scored"])
    if form in ("words", "moses"):
        assert warned and "how many characters" not in warned[0]
    if form == "bytes":
        assert found["unknown"] in (0, 40, 80), "Ü is two bytes, of which training may lack one or both"


def test_without_counts_the_dictionary_spells_the_same(scored: Scored, lines: Any, tmp_path: Path) -> None:
    """Of text without unknown words: validation is a part of training here."""
    form, folder, _, _ = scored
    if form == "moses":
        pytest.skip("Moses' spaces cannot be told from those of the text")
    data = tmp_path / "data-bin"
    shutil.copytree(folder / "corpus/data-bin", data, ignore=shutil.ignore_patterns("corpus.json"))
    found = report(eval_lm(data, folder / "checkpoint_last.pt", tmp_path / "log", "--gen-subset", "valid").succeed())
    one_space = [" ".join(line.split()) for line in lines[0][:9]]
    text = "".join(line + "\n" for line in (one_space if form in ("words", "bpe") else lines[0][:9]))
    assert found["source"] == "the dictionary spells them" and found["unknown"] == 0
    assert found["characters"] == len(text.encode() if form == "bytes" else text)
    if form in ("bpe", "sentencepiece"):
        assert found["words"] == len(text.split()) + 9


def test_counts_of_another_text_are_refused() -> None:
    score = Score(targets=10, scored=10, nats=20.0, words=3, characters=9)
    counts = TextCounts(lines=1, words=2, characters=12, bytes=13, tokens=11)
    with pytest.raises(Exception, match="counts 11 tokens of test, where the data has 10"):
        score.of_original(counts, "test")
    assert score.of_original(None, "test") == score
    part = Score(targets=20, scored=10)
    assert part.of_original(counts, "test") == part, "of a part, nothing is known"


def test_without_counts_the_unknown_is_said_to_be_guessed() -> None:
    score = Score(targets=100, scored=100, nats=20.0, unknown=2, words=90, characters=500)
    warning = score.unknown_warning("test")
    assert warning is not None and "2.00 %" in warning and "how many characters they stood for is not known" in warning
    assert Score(targets=100, scored=100, unknown=1).unknown_warning("test") is None
    assert score.line(4, False).endswith("characters and words as the dictionary spells them")
