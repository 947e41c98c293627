"""WikiText-103 (Merity et al., arXiv 1609.07843), the word-level release: ``lamemo prepare wikitext-103 --dest DIR``.

It is tokenized already and has ``<unk>`` for words that are rare in it. Articles follow each other; a blank line stands
around each title, so that line ends are targets, as in every published figure.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError
from . import forms
from .corpus import WORDS, Corpus, Manifest
from .fetch import Archive, obtain
from .forms import Form
from .known import Known
from .read import Lines, decoded, file_hash, guarded

ARCHIVE = Archive(
    "wikitext-103-v1.zip",
    (
        "https://wikitext.smerity.com/wikitext-103-v1.zip",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
    ),
    "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    190_229_076,
)
#: tokens of each split, line ends included, as published
TOKENS = {"train": 103_227_021, "valid": 217_646, "test": 245_569}
#: different tokens of train, the line end and ``<unk>`` among them, as published
TYPES = 267_735


@dataclass(frozen=True)
class Member:
    """The lines of one split in the archive. Members are read by their names, and nothing is unpacked."""

    path: Path
    name: str

    def __iter__(self) -> Iterator[str]:
        with guarded(self.path, "--archive"), zipfile.ZipFile(self.path) as archive:
            yield from decoded(f"{self.path}:{self.name}", lambda: archive.open(self.name), "--archive")


def members(path: Path) -> dict[str, str]:
    """The archive's name of each split's file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"--archive {path} is no zip archive ({error}): name {ARCHIVE.name}") from error
    found = {split: [name for name in names if Path(name).name == f"wiki.{split}.tokens"] for split in TOKENS}
    for split, those in found.items():
        if len(those) != 1:
            raise UsageError(
                f"--archive {path} holds no wiki.{split}.tokens: name {ARCHIVE.name}, the word-level release"
            )
    return {split: those[0] for split, those in found.items()}


def prepare(
    dest: Path,
    archive: Path | None = None,
    form: Form | None = None,
    unchecked: bool = False,
    cache: Path | None = None,
    force: bool = False,
    known: Archive = ARCHIVE,
) -> Manifest:
    """Fetches what is missing, and does what is not done yet.

    Args:
        dest: the folder to make.
        archive: the zip archive, or a folder with its three files, instead of a download.
        form: words, unless it says otherwise.
        unchecked: take ``archive`` whatever its checksum.
        cache: where a download stays.
        force: replace another corpus.
        known: what is downloaded.
    """
    form = form or Form()
    if archive is not None and archive.is_dir():
        splits = {split: Lines(archive / f"wiki.{split}.tokens", "--archive") for split in TOKENS}
        for text in splits.values():
            if not text.path.is_file():
                raise UsageError(
                    f"--archive {archive} has no {text.path.name}: name {ARCHIVE.name}, or a folder of its files"
                )
        inputs = "".join(file_hash(text.path) for text in splits.values())
    else:
        path = obtain(known, archive, unchecked, cache)
        splits = {split: Member(path, name) for split, name in members(path).items()}  # type: ignore[misc]
        inputs = file_hash(path)
    published = Known(TOKENS, TYPES) if form == Form() and not unchecked else Known()
    return forms.prepare(dest, Corpus("WikiText-103", WORDS, splits, inputs, known=published), form, force)
