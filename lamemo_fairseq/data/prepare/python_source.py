"""Source of Python as characters: of the standard library, or of what is installed (site-packages).

Whole files go to one split each, by a hash of their names, so that a later Python moves none of them. Test modules,
installed packages and files that are not UTF-8 are left out.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
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
    """All modules of ``library``."""
    named = [(path.relative_to(library).as_posix(), path) for path in modules(library)]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return source_corpus(f"standard library of Python {version}", ((name, name, path) for name, path in named))


def source_corpus(source: str, files: Iterable[tuple[str, str, Path]]) -> Corpus:
    """Modules as characters, read twice: once for the hash, once for the texts.

    Args:
        source: what the text is called.
        files: of each module, what decides about its split, its name, and its path.
    """
    splits: dict[str, list[Path]] = {split: [] for split in corpus.SPLITS}
    digest = hashlib.sha256()
    for whole, name, path in files:
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        digest.update(name.encode() + b"\0" + content)
        splits[file_split(whole)].append(path)
    texts = {split: Modules(tuple(paths)) for split, paths in splits.items()}
    return Corpus(source, corpus.CHARACTERS, texts, digest.hexdigest())


def installed(found: Iterable[Distribution]) -> Iterator[tuple[str, str, Path]]:
    """Modules of installed projects, tests left out: project, name and path of each, by these."""
    projects = {str(one.metadata["Name"]).lower(): one for one in found}
    for project, one in sorted(projects.items()):
        for file in sorted(one.files or [], key=str):
            if file.suffix == ".py" and LEFT_OUT.isdisjoint(file.parts) and not file.name.startswith("test_"):
                path = Path(str(one.locate_file(file)))
                if path.is_file():
                    yield project, f"{project}/{file}", path


def prepare_site_packages(dest: Path, found: Iterable[Distribution] | None = None, force: bool = False) -> Manifest:
    """The modules of this environment's projects (or of ``found``), each project whole in one split."""
    text = source_corpus("modules of installed projects", installed(distributions() if found is None else found))
    for split, lines in text.splits.items():
        if next(iter(lines), None) is None:
            raise UsageError(f"too few projects are installed here: none of them fell to {split}")
    return corpus.prepare(dest, text, force)


@dataclass(frozen=True)
class Modules:
    """The lines of files, one after the other."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        return lines(self.paths)


def lines(paths: Iterable[Path]) -> Iterator[str]:
    """The lines of files, one after the other."""
    for path in paths:
        text = path.read_text(encoding="utf-8-sig").replace("\f", "")
        if text.strip():
            yield from text.removesuffix("\n").split("\n")


def prepare(dest: Path, library: Path | None = None, force: bool = False) -> Manifest:
    """Does what is not done yet."""
    return corpus.prepare(dest, standard_library(library or Path(sysconfig.get_paths()["stdlib"])), force)
