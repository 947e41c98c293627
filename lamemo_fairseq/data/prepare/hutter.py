"""enwik8 and text8 (Mahoney, Large Text Compression Benchmark): the first 90, 5 and 5 million bytes of one file.

Both are bytes. Those of text8 are 27 characters, without a line end. enwik8 has 204 kinds of bytes besides the line
end, and two conventions: Transformer-XL's data, which LaMemo was trained on, lack the line ends (``--line-ends drop``,
the default here), others count them (``keep``, 205 symbols). Bits per byte differ between the two by about 0.02.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ...core.errors import UsageError
from ..byte_tokens import TOKENS
from ..counts import TextCounts
from . import corpus
from .corpus import BYTES, SPLITS, Corpus, Manifest
from .fetch import Archive, obtain

CHUNK = 4096  # bytes of an entry: a text without line ends would be a single one otherwise
DROP, KEEP = "drop", "keep"


@dataclass(frozen=True)
class Benchmark:
    """A file of the benchmark.

    Attributes:
        name: of the file inside of the archive.
        archive: where it comes from.
        sizes: bytes of train, valid and test.
        sha1: of the file, where it is known.
    """

    name: str
    archive: Archive
    sizes: tuple[int, int, int] = (90_000_000, 5_000_000, 5_000_000)
    sha1: str | None = None


ENWIK8 = Benchmark(
    "enwik8",
    Archive(
        "enwik8.zip",
        ("http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        36_445_475,
    ),
    sha1="57b8363b814821dc9d47aa4d41f58733519076b2",
)
TEXT8 = Benchmark(
    "text8",
    Archive("text8.zip", ("http://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"), largest=1 << 28),
    sha1="0dc3edebc970dcc96137e7deda4d9995af9d93de",
)


@dataclass
class ByteCounts(TextCounts):
    """Counts of pieces of a text of bytes, which may begin and end within a word or a character of UTF-8.

    Attributes:
        line_ends: whether line ends are part of the text.
        in_word: whether the last byte belonged to a word.
    """

    line_ends: bool = True
    in_word: bool = False

    def add(self, line: bytes) -> None:  # type: ignore[override]
        """Counts a piece, line ends included."""
        ends = line.count(b"\n")
        left_out = 0 if self.line_ends else ends
        self.lines += ends - left_out
        self.bytes += len(line) - left_out
        self.characters += sum(value & 0xC0 != 0x80 for value in line) - left_out
        self.words += len(line.split()) - (self.in_word and not line[:1].isspace())
        self.in_word = not line[-1:].isspace()


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` of the file, in pieces."""

    path: Path
    name: str
    start: int
    stop: int

    def __iter__(self) -> Iterator[bytes]:
        with open_file(self.path, self.name) as file:
            left = self.start
            while left:  # a zip archive cannot jump
                left -= len(file.read(min(left, 1 << 20)))
            left = self.stop - self.start
            while left:
                piece = file.read(min(CHUNK, left))
                left -= len(piece)
                yield piece


def open_file(path: Path, name: str) -> IO[bytes]:
    """The benchmark's file, from its archive or as it is. Only the member of that name is read, and never written."""
    try:
        if not zipfile.is_zipfile(path):
            refuse_packed(path, name)
            return open(path, "rb")
        return cast("IO[bytes]", zipfile.ZipFile(path).open(name))
    except (KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"--archive {path} holds no {name}: name {name}.zip, or the file itself") from error


#: how files begin that are packed, or no text of ours at all
PACKED = {
    b"PK\x03\x04": "a zip archive that is cut off or damaged",
    b"\x1f\x8b": "packed with gzip",
    b"BZh": "packed with bzip2",
}
PACKED.update({b"\xfd7zXZ": "packed with xz", b"<!DOCTYPE html": "a web page", b"<html": "a web page"})


def refuse_packed(path: Path, name: str) -> None:
    """Raises ``UsageError`` for what would be taken for the text itself, most of all with ``--unchecked``."""
    with open(path, "rb") as file:
        begin = file.read(16)
    for magic, what in PACKED.items():
        if begin.startswith(magic):
            raise UsageError(f"--archive {path} is {what}: name {name}.zip whole, or {name} itself")


def check_file(benchmark: Benchmark, path: Path, unchecked: bool) -> tuple[tuple[int, ...], str]:
    """Sizes of the splits and the SHA-1 of the file, once it has proved to be the one that is meant."""
    digest, size, expected = hashlib.sha1(), 0, sum(benchmark.sizes)
    with open_file(path, benchmark.name) as file:
        try:
            while size <= expected and (block := file.read(1 << 20)):
                size += len(block)
                digest.update(block)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UsageError(f"--archive {path} is damaged ({error}): fetch it again") from error
    if unchecked:
        if not 20 <= size <= expected:
            raise UsageError(
                f"--archive {path} has {'more' if size > expected else f'{size:,}'} bytes: with --unchecked, 20 to "
                f"{expected:,} will do"
            )
        part = size // 20
        return (size - 2 * part, part, part), digest.hexdigest()
    if size != expected:
        raise UsageError(f"--archive {path}: {benchmark.name} has {expected:,} bytes, not {size:,}: fetch it again")
    if benchmark.sha1 not in (None, digest.hexdigest()):
        raise UsageError(f"--archive {path} has sha1 {digest.hexdigest()}, not {benchmark.sha1}: fetch it again")
    return benchmark.sizes, digest.hexdigest()


def encoder(line_ends: bool) -> corpus.Encoder:
    """Pieces of bytes as tokens; a line end is ``</s>``, or left out."""
    tokens = [*TOKENS[:10], "</s>" if line_ends else "", *TOKENS[11:]]

    def encode(pieces: Iterable[str]) -> Iterator[str]:
        for piece in cast("Iterable[bytes]", pieces):
            yield " ".join([tokens[value] for value in piece if line_ends or value != 10])

    return encode


def prepare(
    benchmark: Benchmark,
    dest: Path,
    archive: Path | None = None,
    line_ends: str = DROP,
    unchecked: bool = False,
    cache: Path | None = None,
    force: bool = False,
) -> Manifest:
    """Fetches what is missing, and does what is not done yet.

    Args:
        benchmark: ENWIK8 or TEXT8.
        dest: the folder to make.
        archive: the zip archive, or the file that is in it, instead of a download.
        line_ends: DROP or KEEP.
        unchecked: take ``archive`` as it is, whatever its size; a twentieth of it each is for valid and test.
        cache: where a download stays.
        force: replace another corpus.
    """
    checked = benchmark.archive
    if archive is not None and not zipfile.is_zipfile(archive):
        checked = Archive(benchmark.name, ())  # the file itself, whose size and sum are looked at below
    path = obtain(checked, archive, unchecked, cache)
    sizes, sha1 = check_file(benchmark, path, unchecked)
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    keep = line_ends == KEEP
    text = Corpus(
        f"{benchmark.name} as bytes, line ends {'kept' if keep else 'dropped'}",
        BYTES,
        {
            split: cast("Iterable[str]", Span(path, benchmark.name, start, end))
            for split, start, end in zip(SPLITS, [0, *ends[:-1]], ends)
        },
        sha1,
        encoder(keep),
        line_ends=False,
        counts=lambda: ByteCounts(line_ends=keep),
        vocabulary=SPLITS,  # as it was published: a byte that training never has is no unknown
    )
    return corpus.prepare(dest, text, force)
