"""A corpus of one's own: ``lamemo prepare text --train a.txt --valid b.txt --test c.txt --dest runs/mine``.

By default each token is what stands between white space: words, or pieces that have been made already. With ``--moses
en`` the text is tokenized first. With ``--bpe 8000`` words are cut into pieces by as many merges, learned from the
training text and kept as ``codes`` beside texts and data; ``--codes`` takes merges that are there already. With
``--characters`` each character is a token.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...core.errors import UsageError
from . import bpe, corpus
from .binarize import read_dictionary
from .corpus import Corpus, Encoder, Manifest
from .read import Lines, file_hash, read_lines


def prepare(
    dest: Path,
    splits: dict[str, Lines],
    units: str = corpus.WORDS,
    merges: int | None = None,
    codes: Path | None = None,
    moses: str | None = None,
    dictionary: Path | None = None,
    force: bool = False,
) -> Manifest:
    """Does what is not done yet.

    Args:
        dest: the folder to make.
        splits: the text of each split.
        units: CHARACTERS or WORDS.
        merges: cut words by as many merges, learned from the training text.
        codes: cut words by these.
        moses: language of Moses' tokenizer, before all else.
        dictionary: a ``dict.txt`` in place of one made from the training text.
        force: replace another corpus.
    """
    if "train" not in splits and dictionary is None:
        raise UsageError("--train is missing: name it, or the --dict of the model that is to read this text")
    if units == corpus.CHARACTERS and moses is not None:
        raise UsageError(f"--moses {moses} tokenizes words: leave it out with --characters")
    inputs = check_inputs(dest, splits)
    how, encode, extras = [], None, {}
    if moses is not None:
        how.append(f"Moses, {moses}")
        encode = tokenizer(moses)
    if dictionary is not None:
        read_dictionary(dictionary)
        extras[corpus.DICT] = dictionary
        inputs += file_hash(dictionary)
        how.append(f"dictionary {dictionary}")
    if codes is not None:
        check_codes(codes)
        extras[corpus.CODES] = codes
        inputs += file_hash(codes)
        how.append(f"byte-pair encoding, {codes}")
        encode = chained(encode, lambda lines: bpe.apply(codes, lines))
    source = ", ".join(str(text.path) for text in unique(splits)) + (f" ({'; '.join(how)})" if how else "")
    text = Corpus(source, units, splits, hashlib.sha256(inputs.encode()).hexdigest(), encode, extras)
    return corpus.prepare(dest, text, force) if merges is None else bpe.prepare(dest, text, merges, force)


def unique(splits: dict[str, Lines]) -> list[Lines]:
    """One of each file."""
    return list({text.path: text for text in splits.values()}.values())


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
            hashes[text.path] = file_hash(text.path)
        found += f"{split} {hashes[text.path]} {text.start} {text.stop}\n"
    return found


def check_codes(codes: Path) -> None:
    """Raises ``UsageError`` where ``codes`` is no file of merges."""
    bpe.check_installed()
    try:
        lines = codes.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"--codes {codes} cannot be read ({error}): name the codes of a model's data") from error
    if not lines or any(len(line.split(" ")) != 3 for line in lines):
        raise UsageError(f"--codes {codes} is no file of merges (`left right count`): name the codes of a model's data")


def tokenizer(language: str) -> Encoder:
    """Moses' tokenizer, as ``--tokenizer moses`` of fairseq's commands has it by default."""
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(language)

    def tokenize(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield moses.tokenize(line, aggressive_dash_splits=True, return_str=True, escape=True)

    return tokenize


def chained(first: Encoder | None, second: Encoder) -> Encoder:
    """One encoder after the other."""
    return second if first is None else lambda lines: second(first(lines))


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
    starts = [0, *ends[:-1]]
    for split, start, end in zip(corpus.SPLITS, starts, ends):
        if start == end and percent[corpus.SPLITS.index(split)] > 0:
            raise UsageError(f"--split {asked} leaves nothing for {split}: {path} has {lines} lines only")
    found = {s: Lines(path, "--text", start, end) for s, start, end in zip(corpus.SPLITS, starts, ends)}
    return {split: text for split, text in found.items() if text.start != text.stop}


def prepare_from_flags(dest: Path, arguments: argparse.Namespace) -> Manifest:
    """As ``lamemo prepare text`` says."""
    given = {split: getattr(arguments, split) for split in corpus.SPLITS if getattr(arguments, split) is not None}
    if bool(given) == (arguments.text is not None):
        raise UsageError("name --train, --valid and --test, or one --text that is split")
    splits = shares(arguments.text, arguments.split) if arguments.text is not None else {}
    splits.update({split: Lines(path, f"--{split}") for split, path in given.items()})
    return prepare(
        dest, splits, arguments.units, arguments.bpe, arguments.codes, arguments.moses, arguments.dict, arguments.force
    )
