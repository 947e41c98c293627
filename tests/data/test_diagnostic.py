"""The made-up task: its answers follow from the line before, and lines are the segments that a model is given."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from conftest import run, task_config
from hypothesis import given, settings
from hypothesis import strategies as st

from lamemo_fairseq.cli.main import main
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.data.prepare import diagnostic
from lamemo_fairseq.data.prepare.diagnostic import Diagnostic
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.plugin.task import MemoryLanguageModelingTask

SMALL = Diagnostic(tokens=16, rows=3, updates=4, items=20, labels=3, grow=2)


def groups_of(tokens: List[str], order: str) -> Iterator["tuple[str, List[str]]"]:
    """Label and items of each group, read in the order that a person would."""
    names = [token for token in tokens if token != diagnostic.FILLER]
    if order == "chain":  # a pair leads on to the next that begins where it ends
        following = dict(zip(names[::2], names[1::2]))
        for first in sorted(following.keys() - following.values()):
            chain = [first]
            while chain[-1] in following:
                assert names[::2].index(chain[-1]) >= max(names[::2].index(item) for item in chain)  # to the right
                chain.append(following[chain[-1]])
            yield chain[-1], chain[:-1]
        return
    for text in re.findall(r"((?:i\d+ )+)(L\d+)" if order == "close" else r"(L\d+) ((?:i\d+ ?)+)", " ".join(names)):
        label, items = reversed(text) if order == "close" else text
        yield label, items.split()


def check_lines(task: Diagnostic, shown: List[str], asked: List[str], longest: int) -> None:
    assert len(shown) == len(asked) == task.room
    labels: Dict[str, str] = {}
    for label, items in groups_of(shown, task.order):
        assert 1 <= len(items) <= longest
        assert not labels.keys() & set(items)
        labels.update(dict.fromkeys(items, label))
    assert {token for token in shown if token.startswith("i")} == labels.keys()
    assert task.order == "chain" or sum(token.startswith("i") for token in shown) == len(labels)
    count = min(task.room // 3, len(labels))
    questions = [asked[place : place + 3] for place in range(0, 3 * count, 3)]
    assert len({item for _, item, _ in questions}) == count
    assert count == task.room // 3 and set(asked[3 * count :]) <= {diagnostic.FILLER}
    assert all(mark == diagnostic.QUESTION and labels[item] == answer for mark, item, answer in questions)


@settings(max_examples=30, deadline=None)
@given(
    order=st.sampled_from(["close", "open", "chain"]),
    tokens=st.integers(8, 40).map(lambda half: 2 * half),
    longest=st.integers(1, 3),
    one_segment=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_answer_is_in_the_line_before(
    order: str, tokens: int, longest: int, one_segment: bool, seed: int
) -> None:
    task = Diagnostic(tokens, 1, 3, 100, 8, order, 1, 1, longest, one_segment, seed)
    task.check()
    texts = [line.split() for line in diagnostic.lines(task, 0)]
    if one_segment:
        assert {len(text) for text in texts} == {tokens - 1}
        texts = [part for text in texts for part in (text[: task.room], text[task.room + 1 :])]
    for update in range(3):
        check_lines(task, *texts[2 * update : 2 * update + 2], longest=min(longest, update + 1))


def test_the_command_writes_segments_for_each_stream(tmp_path: Path) -> None:
    """Row after row, each with the whole curriculum."""
    flags = [*("--tokens", 16, "--rows", 3, "--updates", 4, "--items", 20, "--labels", 3, "--grow", 2)]
    assert main(["prepare", "diagnostic", "--dest", str(tmp_path / "d"), *map(str, flags)]) == 0
    texts = (tmp_path / "d" / "train.txt").read_text().splitlines()
    assert texts == list(diagnostic.Streams(SMALL, 0))
    task = MemoryLanguageModelingTask.setup_task(task_config(tmp_path / "d" / "data-bin"))
    task.load_dataset("train")
    text = task.datasets["train"]
    segments = Segments(text, Layout.even(text.total, 3, 16), task.dictionary.pad(), task.dictionary.eos())
    assert len(segments) == len(texts) == 3 * 2 * 4
    for row in range(3):
        for segment in range(8):
            target = segments[segment * 3 + row]["target"]
            assert task.dictionary.string(target[:-1]) == texts[row * 8 + segment]
            assert target[-1] == task.dictionary.eos()
    assert texts[:8] != texts[8:16]  # rows differ
    again = tmp_path / "again"
    diagnostic.prepare(again, SMALL)
    assert (again / "train.txt").read_text().splitlines() == texts
    diagnostic.prepare(again, replace(SMALL, seed=2), force=True)
    assert (again / "train.txt").read_text().splitlines() != texts


def test_the_held_out_text_has_longer_groups(tmp_path: Path) -> None:
    diagnostic.prepare(tmp_path, replace(SMALL, tokens=40, items=60, longest=2))
    longest = {}
    for split in ("train", "valid", "test"):
        shown = (tmp_path / f"{split}.txt").read_text().splitlines()[::2]
        longest[split] = max(len(items) for line in shown for _, items in groups_of(line.split(), "close"))
    assert longest == {"train": 2, "valid": 2, "test": 4}


WRONG = {
    "--rows 0": replace(SMALL, rows=0),
    "--updates 0": replace(SMALL, updates=0),
    "--grow -1": replace(SMALL, grow=-1),
    "--labels 1": replace(SMALL, labels=1),
    "--tokens 17": replace(SMALL, tokens=17),
    "--tokens 8": replace(SMALL, tokens=8),
    "--items 14": replace(SMALL, items=14),
}


@pytest.mark.parametrize("line", sorted(WRONG))
def test_what_cannot_be_made(line: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(line)):
        diagnostic.prepare(tmp_path, WRONG[line])


def test_the_answers_alone_are_scored(tmp_path: Path) -> None:
    """Through fairseq-train: an update has ROWS times the questions of a line, and a loss near that of a guess."""
    diagnostic.prepare(tmp_path / "d", SMALL)
    done = run(
        *("train", tmp_path / "d/data-bin", "--task", "memory_language_modeling", "--arch", "lamemo_lm"),
        *("--criterion", "memory_cross_entropy", "--score-after", "?", "--score-offset", 2, "--update-freq", 2),
        *(
            "--decoder-layers",
            1,
            "--decoder-embed-dim",
            8,
            "--decoder-ffn-embed-dim",
            8,
            "--decoder-attention-heads",
            1,
        ),
        *("--tokens-per-sample", 16, "--batch-size", 3, "--mem-len", 16, "--optimizer", "adam", "--lr", 1e-9),
        *("--max-update", 4, "--disable-validation", "--no-save", "--log-format", "json", "--log-interval", 1),
    )
    told = re.findall(r'train_inner.*?"loss": "([\d.]+)", "accuracy": "([\d.]+)".*?"wpb": "(\d+)"', done.stdout)
    assert len(told) == 4
    for loss, accuracy, tokens in told:
        assert int(tokens) == 3 * 5  # a line of 15 tokens has five questions
        assert float(loss) == pytest.approx(5, abs=0.5)  # all 32 symbols are as likely
        assert 0 <= float(accuracy) <= 100
