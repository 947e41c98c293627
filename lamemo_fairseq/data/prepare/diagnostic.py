"""A synthetic task of associative recall: ``lamemo prepare diagnostic --dest runs/diagnostic``.

Lines of N - 1 tokens, which with ``</s>`` are segments of N, alternate::

    i17 i80 i3 L5 i44 L0 ...       groups of distinct items, each closed (or opened) by the label of all its items
    ? i80 L5 ? i44 L0 ...          questions about different items of the line before, each with its answer

    i17 i80 i44 L0 i80 i3 i3 L5    the same groups as chains, mixed: i17 leads to i80, to i3, to L5

Read with ``--tokens-per-sample N --batch-size ROWS --update-freq 2`` an update is a line of groups and one of questions
in each stream, and every answer but chance has to come through the memory. ``--score-after ? --score-offset 2`` trains
and measures the answers alone.

The curriculum lies in the order of the text. A group's length is drawn from 1 to a longest, which begins at ``first``
and grows by one every ``grow`` updates. ``Layout`` cuts a text into ROWS streams of equal length, so the text is
written stream after stream, each with the whole curriculum. Nothing is ever repeated: accuracy in training is accuracy
on new text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ...core.errors import UsageError
from . import corpus
from .corpus import WORDS, Corpus, Manifest

QUESTION, FILLER = "?", "."


@dataclass(frozen=True)
class Diagnostic:
    """What the text is drawn from.

    Attributes:
        tokens: N, of a line with its ``</s>``.
        rows: streams of the training text, the ``--batch-size`` times ranks that it is for.
        updates: of the training text, two lines each in every stream.
        items: kinds of items.
        labels: kinds of labels.
        order: ``close``: a label stands behind its group; ``open``: before it; ``chain``: a group is pointers to the
            right that end at its label, each item with the next behind it.
        first: longest group at the beginning.
        grow: updates after which the longest group grows by one; 0: never.
        longest: of all groups, whatever ``grow`` comes to.
        one_segment: groups and questions share a line: half of it each, so that no memory is needed.
        seed: of everything that is drawn.
    """

    tokens: int = 64
    rows: int = 32
    updates: int = 8000
    items: int = 100
    labels: int = 8
    order: str = "close"
    first: int = 1
    grow: int = 1500
    longest: int = 6
    one_segment: bool = False
    seed: int = 1

    def check(self) -> None:
        """Raises ``UsageError`` where no such text can be made."""
        for name in ("rows", "updates", "first", "longest"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)} is too small: give 1 or more")
        if self.grow < 0:
            raise UsageError(f"--grow {self.grow} is negative: give 0 for a curriculum that does not move")
        if self.labels < 2:
            raise UsageError(f"--labels {self.labels} leaves nothing to ask: give 2 or more")
        if self.tokens < 16 or self.tokens % 2:
            raise UsageError(f"--tokens {self.tokens} is too short or odd: give an even number from 16 on")
        if self.items < self.room:
            raise UsageError(f"--items {self.items} are not enough for {self.room} distinct ones: give more")

    @property
    def room(self) -> int:
        """Tokens of groups, and of questions, in a line."""
        return (self.tokens // 2 if self.one_segment else self.tokens) - 1

    def longest_at(self, update: int) -> int:
        """The longest group that ``update`` (from 0) may draw."""
        return min(self.longest, self.first + (update // self.grow if self.grow else 0))


def groups(task: Diagnostic, longest: int, draw: np.random.Generator) -> tuple[list[str], dict[int, int]]:
    """Tokens of a line of groups, and the label of each item in it."""
    items, answers = iter(draw.permutation(task.items)), {}
    found: list[list[str]] = []
    left = task.room
    while left >= 2:
        label = int(draw.integers(task.labels))
        fits = left // 2 if task.order == "chain" else left - 1
        group = [int(next(items)) for _ in range(min(int(draw.integers(1, longest + 1)), fits))]
        answers.update(dict.fromkeys(group, label))
        found.append(written(task.order, [f"i{item}" for item in group], f"L{label}"))
        left -= len(found[-1])
    tokens = mixed(found, draw) if task.order == "chain" else [token for group in found for token in group]
    return tokens + [FILLER] * left, answers


def written(order: str, items: list[str], label: str) -> list[str]:
    """Tokens of a group."""
    if order == "chain":
        return [token for pair in zip(items, [*items[1:], label]) for token in pair]
    return [*items, label] if order == "close" else [label, *items]


def mixed(chains: list[list[str]], draw: np.random.Generator) -> list[str]:
    """The pairs of all ``chains`` in a random order, in which those of a chain still follow each other."""
    turns = draw.permutation([number for number, chain in enumerate(chains) for _ in range(len(chain) // 2)])
    pairs = [iter(zip(chain[::2], chain[1::2])) for chain in chains]
    return [token for turn in turns for token in next(pairs[turn])]


def questions(task: Diagnostic, answers: dict[int, int], draw: np.random.Generator) -> list[str]:
    """Tokens of a line of questions about different items, each with its answer."""
    asked = draw.permutation(list(answers))[: task.room // 3]
    tokens = [token for item in asked for token in (QUESTION, f"i{item}", f"L{answers[int(item)]}")]
    return tokens + [FILLER] * (task.room - len(tokens))


def lines(task: Diagnostic, *key: int) -> Iterator[str]:
    """The lines of one stream, drawn from the random numbers that ``key`` and the seed begin."""
    draw = np.random.default_rng([task.seed, *key])
    for update in range(task.updates):
        shown, answers = groups(task, task.longest_at(update), draw)
        asked = questions(task, answers, draw)
        if task.one_segment:
            yield " ".join([*shown, FILLER, *asked])  # FILLER where the line end stands otherwise
        else:
            yield " ".join(shown)
            yield " ".join(asked)


@dataclass(frozen=True)
class Streams:
    """The lines of a split, stream after stream, as often as they are asked for."""

    task: Diagnostic
    split: int

    def __iter__(self) -> Iterator[str]:
        for number in range(self.task.rows):
            yield from lines(self.task, self.split, number)


def chosen(arguments: argparse.Namespace) -> Diagnostic:
    """The task of a command line that has a flag for each field."""
    return Diagnostic(**{name: getattr(arguments, name) for name in Diagnostic.__dataclass_fields__})


def prepare(dest: Path, task: Diagnostic, force: bool = False) -> Manifest:
    """Does what is not done yet. ``valid`` has the longest groups of the curriculum's end, ``test`` twice as long ones.

    Both have 100 updates in each stream.
    """
    task.check()
    end = task.longest_at(task.updates - 1)
    held_out = replace(task, updates=min(task.updates, 100), grow=0, first=end, longest=end)
    splits = {
        "train": Streams(task, 0),
        "valid": Streams(held_out, 1),
        "test": Streams(replace(held_out, first=2 * end, longest=2 * end), 2),
    }
    inputs = json.dumps(asdict(task))
    return corpus.prepare(
        dest, Corpus("diagnostic", WORDS, splits, inputs, vocabulary=("train", "valid", "test")), force
    )
