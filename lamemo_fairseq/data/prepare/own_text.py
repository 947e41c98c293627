"""A corpus of your own: three text files to DEST/{train,valid,test}.txt and DEST/data-bin.

    python scripts/prepare_text.py --train a.txt --valid b.txt --test c.txt --dest runs/mine

By default each token is what stands between white space: words, or the pieces of a BPE that has
been applied already. With --bpe 8000 words are cut into pieces by as many merges, learned from the
training text and kept in DEST/codes. With --characters each character is a token; corpus.py says how
it is written.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bpe
import corpus
from corpus import Corpus, CorpusError, Manifest


@dataclass(frozen=True)
class Lines:
    """The lines of a file, as often as they are asked for."""

    path: Path
    flag: str

    def __iter__(self) -> Iterator[str]:
        return corpus.read_lines(self.path, self.flag)


def prepare(dest: Path, files: dict[str, Path], units: str = corpus.WORDS, merges: int | None = None) -> Manifest:
    """FILES names the text of each split, words being cut by ``merges`` if any; does what is not done yet."""
    outputs = [(dest / f"{split}.txt").resolve() for split in corpus.SPLITS]
    digest = hashlib.sha256()
    for split in corpus.SPLITS:
        flag, path = f"--{split}", files[split]
        if path.resolve() in outputs:
            raise CorpusError(f"{flag} {path} would be overwritten: choose another --dest")
        if not path.is_file():
            raise CorpusError(f"{flag} {path} is not a file: name a text file")
        digest.update(corpus.file_hash(path).encode())
    splits = {split: Lines(files[split], f"--{split}") for split in corpus.SPLITS}
    source = f"{files['train']}, {files['valid']}, {files['test']}"
    text = Corpus(source, units, splits, digest.hexdigest())
    return corpus.prepare(dest, text) if merges is None else bpe.prepare(dest, text, merges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for split in corpus.SPLITS:
        parser.add_argument(f"--{split}", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dest", type=Path, required=True, help="folder to make")
    units = parser.add_mutually_exclusive_group()
    units.add_argument(
        "--characters",
        dest="units",
        action="store_const",
        const=corpus.CHARACTERS,
        default=corpus.WORDS,
        help="each character is a token",
    )
    units.add_argument(
        "--words",
        dest="units",
        action="store_const",
        const=corpus.WORDS,
        help="tokens stand between white space (the default)",
    )
    units.add_argument("--bpe", type=int, metavar="MERGES", help="tokens are pieces of words, by byte-pair encoding")
    arguments = parser.parse_args()
    files = {split: getattr(arguments, split) for split in corpus.SPLITS}
    try:
        prepare(arguments.dest, files, arguments.units, arguments.bpe)
    except CorpusError as error:
        sys.exit(f"prepare_text: {error}")


if __name__ == "__main__":
    main()
