"""A corpus of your own: three text files to DEST/{train,valid,test}.txt and DEST/data-bin.

    python scripts/prepare_text.py --train a.txt --valid b.txt --test c.txt --dest runs/mine

By default each token is what stands between white space: words, or the pieces of a BPE that has
been applied already. With --characters each character is a token; corpus.py says how it is written.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import corpus
from corpus import Corpus, CorpusError, Manifest


def prepare(dest: Path, files: dict[str, Path], units: str = corpus.WORDS) -> Manifest:
    """FILES names the text of each split; does what is not done yet."""
    outputs = [(dest / f"{split}.txt").resolve() for split in corpus.SPLITS]
    digest = hashlib.sha256()
    for split in corpus.SPLITS:
        flag, path = f"--{split}", files[split]
        if path.resolve() in outputs:
            raise CorpusError(f"{flag} {path} would be overwritten: choose another --dest")
        if not path.is_file():
            raise CorpusError(f"{flag} {path} is not a file: name a text file")
        digest.update(corpus.file_hash(path).encode())
    splits = {split: corpus.read_lines(files[split], f"--{split}") for split in corpus.SPLITS}
    source = f"{files['train']}, {files['valid']}, {files['test']}"
    return corpus.prepare(dest, Corpus(source, units, splits, digest.hexdigest()))


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
    arguments = parser.parse_args()
    files = {split: getattr(arguments, split) for split in corpus.SPLITS}
    try:
        prepare(arguments.dest, files, arguments.units)
    except CorpusError as error:
        sys.exit(f"prepare_text: {error}")


if __name__ == "__main__":
    main()
