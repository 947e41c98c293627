"""The source of Python's standard library as characters: ``lamemo prepare python --dest runs/python``.

Whole files go to one split each, by a hash of their names, so that a later Python moves none of them. Test modules,
installed packages and files that are not UTF-8 are left out.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import UsageError
from . import corpus
from .corpus import Corpus, Manifest

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"}


def modules(library: Path) -> list[Path]:
    """The library's own modules, tests left out, in the order of their names."""
    found = []
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if LEFT_OUT.isdisjoint(inside.parts) and not path.name.startswith("test_"):
            found.append(path)
    if not found:
        raise UsageError(f"{library} holds no modules: use a Python whose standard library is not zipped")
    return found


def file_split(name: str) -> str:
    """One file in twenty for valid, one for test."""
    return {6: "valid", 13: "test"}.get(zlib.crc32(name.encode()) % 20, "train")


def standard_library(library: Path) -> Corpus:
    """All modules of ``library``, read twice: once for the hash, once for the texts."""
    splits: dict[str, list[Path]] = {split: [] for split in corpus.SPLITS}
    digest = hashlib.sha256()
    for path in modules(library):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(library).as_posix()
        digest.update(name.encode() + b"\0" + content)
        splits[file_split(name)].append(path)
    return Corpus(
        f"standard library of Python {sys.version_info[0]}.{sys.version_info[1]}",
        corpus.CHARACTERS,
        {split: lines(paths) for split, paths in splits.items()},
        digest.hexdigest(),
    )


def lines(paths: list[Path]) -> Iterator[str]:
    """The lines of files, one after the other."""
    for path in paths:
        text = path.read_text(encoding="utf-8-sig").replace("\f", "")
        if text.strip():
            yield from text.removesuffix("\n").split("\n")


def prepare(dest: Path, library: Path | None = None, force: bool = False) -> Manifest:
    """Does what is not done yet."""
    return corpus.prepare(dest, standard_library(library or Path(sysconfig.get_paths()["stdlib"])), force)
