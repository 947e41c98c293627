"""PG-19 (Rae et al., arXiv 1911.05507): books of Project Gutenberg from before 1919, from a folder that holds them.

Google's bucket has a file per book and no archive.
Its published figure is perplexity per word of the original text, whatever the tokens, and the paper asks (section 4.2)
that the exact number of words in its table be divided by. So these go into the counts that evaluation divides by; what
white space parts is another number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError
from . import forms
from .bucket import Bucket, fetch
from .corpus import WORDS, Corpus, Manifest
from .fetch import default_cache
from .forms import Form
from .known import Known
from .read import file_hash, read_lines

BUCKET = Bucket("deepmind-gutenberg")
FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
BOOKS = {"train": 28_602, "valid": 50, "test": 100}
WORDS_PUBLISHED = {"train": 1_973_136_207, "valid": 3_007_061, "test": 6_966_499}
PIECES = 32_000


@dataclass(frozen=True)
class Books:
    """The lines of books, one after the other."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            yield from read_lines(path, "--archive")


def fetch_books(bucket: Bucket, folder: Path) -> Path:
    """All books below ``folder``, as the bucket has them now; eleven gigabytes."""
    try:
        found = {name: list(bucket.files(name, r"\d+\.txt")) for name in FOLDERS.values()}
        for name, books in found.items():
            fetch(books, folder / name)
    except UsageError as error:
        other = f"gsutil -m rsync -r gs://{bucket.name} DIR fetches it too, then --archive DIR"
        raise UsageError(f"{error}; {other}") from error
    return folder


def prepare(
    dest: Path,
    archive: Path | None = None,
    form: Form | None = None,
    unchecked: bool = False,
    cache: Path | None = None,
    force: bool = False,
    bucket: Bucket = BUCKET,
) -> Manifest:
    """Fetches what is missing, and does what is not done yet.

    Args:
        dest: the folder to make.
        archive: a folder with train/, validation/ and test/, a file N.txt per book; None: they are downloaded.
        form: pieces of words, 32,000 of sentencepiece, unless it says otherwise.
        unchecked: take any number of books.
        cache: where downloads stay.
        force: replace another corpus.
        bucket: what is downloaded from.
    """
    if archive is None:
        archive = fetch_books(bucket, (cache or default_cache()) / "pg19")
    if not archive.is_dir():
        raise UsageError(f"--archive {archive} is no folder of books: name one with train/, validation/ and test/")
    splits = {}
    for split, name in FOLDERS.items():
        books = tuple(sorted((archive / name).glob("*.txt"), key=lambda path: (len(path.name), path.name)))
        if not books or (len(books) != BOOKS[split] and not unchecked):
            raise UsageError(
                f"--archive {archive} has {len(books):,} books in {name}/, not {BOOKS[split]:,}: fetch the others, or "
                "--unchecked to take these"
            )
        splits[split] = Books(books)
    inputs = "".join(file_hash(archive / name) for name in FOLDERS.values())
    known = Known() if unchecked else Known(words=WORDS_PUBLISHED)
    text = Corpus("PG-19", WORDS, splits, inputs, known=known)
    return forms.prepare(dest, text, form or Form(sentencepiece=PIECES), force)
