"""Lines of text that a user names: a file, also packed with gzip, a zip archive, or a folder of these."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Callable, Optional, cast

from ...core.errors import UsageError

LONGEST = 10_000_000  # bytes of a line: each is held whole, and as a list of its tokens

Opener = Callable[[], "IO[bytes]"]


@dataclass(frozen=True)
class Lines:
    """The lines of ``path``, as often as they are asked for; with ``start`` and ``stop``, these of them."""

    path: Path
    flag: str
    start: int = 0
    stop: Optional[int] = None

    def __iter__(self) -> Iterator[str]:
        return itertools.islice(read_lines(self.path, self.flag), self.start, self.stop)


def sources(path: Path) -> Iterator[tuple[str, Opener]]:
    """Name and opener of each file of text in ``path``, by name; of folders and archives, all that is not hidden."""
    if path.is_dir():
        for inside in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in inside.relative_to(path).parts)
            if inside.is_file() and not hidden:
                yield from sources(inside)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                parts = Path(member.filename).parts
                if not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts):
                    yield f"{path}:{member.filename}", partial(archive.open, member)
    elif path.suffix == ".gz":
        yield str(path), lambda: cast("IO[bytes]", gzip.open(path, "rb"))
    else:
        yield str(path), lambda: open(path, "rb")


def read_lines(path: Path, flag: str) -> Iterator[str]:
    r"""The lines of UTF-8 text without their ends, whether these are ``\n``, ``\r\n`` or ``\r``.

    Raises:
        UsageError: what cannot be read, is damaged, is not UTF-8, or holds no text; ``flag`` is named in it.
    """
    empty = True
    with guarded(path, flag):
        for name, opener in sources(path):
            for line in decoded(name, opener, flag):
                empty = empty and not line.strip()
                yield line
    if empty:
        raise UsageError(f"{flag} {path} holds no text: name a file that does")


@contextlib.contextmanager
def guarded(path: Path, flag: str) -> Iterator[None]:
    """Raises ``UsageError`` for a file that cannot be read or is damaged."""
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError) as error:
        raise UsageError(f"{flag} {path} is damaged ({error}): fetch it again") from error
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be read ({error.strerror}): name a text file") from error


def decoded(name: str, opener: Opener, flag: str) -> Iterator[str]:
    """The lines of one file; a byte order mark is dropped."""
    number = 0
    # Read as bytes, because a text file decodes ahead and could not say which line is at fault.
    with opener() as file:
        while raw := file.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                raise UsageError(
                    f"{flag} {name} has more than {LONGEST:,} bytes in line {number}: break it, e.g. with fold -s"
                )
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{flag} {name} is not UTF-8 (byte 0x{error.object[error.start]:02x} in line {number}): convert "
                    "it, for instance with iconv -f latin1 -t utf-8"
                ) from error
            yield from text.removesuffix("\n").removesuffix("\r").split("\r")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    files = [path] if not path.is_dir() else sorted(inside for inside in path.rglob("*") if inside.is_file())
    for one in files:
        if path.is_dir():
            digest.update(one.relative_to(path).as_posix().encode() + b"\0")
        with open(one, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()
