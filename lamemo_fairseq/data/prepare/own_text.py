"""A corpus of one's own: ``lamemo prepare text --train a.txt --valid b.txt --test c.txt --dest runs/mine``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...core.errors import UsageError
from . import corpus, forms
from .corpus import Corpus, Manifest
from .forms import Form
from .read import Lines, file_hash, guarded, read_lines


def prepare(dest: Path, splits: dict[str, Lines], form: Form | None = None, force: bool = False) -> Manifest:
    """Does what is not done yet.

    Args:
        dest: the folder to make.
        splits: the text of each split.
        form: how it becomes tokens; None: as words.
        force: replace another corpus.
    """
    inputs = check_inputs(dest, splits)
    source = ", ".join({str(text.path): "" for text in splits.values()})
    text = Corpus(source, corpus.WORDS, splits, hashlib.sha256(inputs.encode()).hexdigest())
    return forms.prepare(dest, text, form or Form(), force)


def check_inputs(dest: Path, splits: dict[str, Lines]) -> str:
    """A line per split that changes with its content; raises ``UsageError`` for what cannot be read."""
    outputs = [(dest / f"{split}.txt").resolve() for split in corpus.SPLITS]
    found, hashes = "", {}
    for split, text in splits.items():
        if text.path.resolve() in outputs:
            raise UsageError(f"{text.flag} {text.path} would be overwritten: choose another --dest")
        if not text.path.is_file() and not text.path.is_dir():
            raise UsageError(f"{text.flag} {text.path} is not a file: name a text file")
        if text.path not in hashes:
            with guarded(text.path, text.flag):
                hashes[text.path] = file_hash(text.path)
        found += f"{split} {hashes[text.path]} {text.start} {text.stop}\n"
    return found


def shares(path: Path, asked: str) -> dict[str, Lines]:
    """The splits of one text: its lines in their order, the first for train, then valid, then test."""
    try:
        percent = [float(share) for share in asked.split(",")]
    except ValueError:
        percent = []
    if len(percent) != len(corpus.SPLITS) or min(percent) < 0 or percent[0] == 0 or abs(sum(percent) - 100) > 1e-6:
        raise UsageError(f"--split {asked} does not divide a text: give three percentages that sum to 100, e.g. 90,5,5")
    if not path.exists():
        raise UsageError(f"--text {path} is not a file: name a text file")
    lines = sum(1 for _ in read_lines(path, "--text"))
    ends = [round(lines * sum(percent[: number + 1]) / 100) for number in range(len(percent))]
    found = {}
    for split, share, start, end in zip(corpus.SPLITS, percent, [0, *ends[:-1]], ends):
        if start == end and share > 0:
            raise UsageError(f"--split {asked} leaves nothing for {split}: {path} has {lines} lines only")
        if start < end:
            found[split] = Lines(path, "--text", start, end)
    return found
