"""PG-19 (Rae et al., arXiv 1911.05507): books of Project Gutenberg from before 1919, from a folder that holds them.

Google's bucket has a file per book and no archive, so its own tool fetches them; see ``FETCH``.
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
from .corpus import WORDS, Corpus, Manifest
from .forms import Form
from .known import Known
from .read import file_hash, read_lines

FETCH = "gsutil -m rsync -r gs://deepmind-gutenberg DIR"
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


def prepare(
    dest: Path, archive: Path | None, form: Form | None = None, unchecked: bool = False, force: bool = False
) -> Manifest:
    """Does what is not done yet.

    Args:
        dest: the folder to make.
        archive: a folder with train/, validation/ and test/, a file N.txt per book.
        form: pieces of words, 32,000 of sentencepiece, unless it says otherwise.
        unchecked: take any number of books.
        force: replace another corpus.
    """
    if archive is None or not archive.is_dir():
        raise UsageError(f"--archive {archive} is not a folder of books: fetch them with {FETCH}, then --archive DIR")
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
