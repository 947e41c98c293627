"""``lamemo prepare``: a corpus, by name, becomes texts and a data-bin."""

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import UsageError

HELP = "Makes a data-bin of a text of your own (text), of Shakespeare's plays, or of Python's own source."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser per corpus."""
    corpora = parser.add_subparsers(dest="corpus", metavar="CORPUS", required=True)
    add_text(corpora.add_parser("text", help="text files of your own"))
    shakespeare = corpora.add_parser("shakespeare", help="42 plays and poems, as characters")
    shakespeare.add_argument("--offline", action="store_true", help="take Python's documentation topics at once")
    python = corpora.add_parser("python", help="the source of Python's standard library, as characters")
    for one in (shakespeare, python):
        one.add_argument("dest", nargs="?", type=Path, help=argparse.SUPPRESS)
    for one in corpora.choices.values():
        one.add_argument("--dest", dest="dest_flag", type=Path, metavar="DIR", help="folder to make")
        one.add_argument("--force", action="store_true", help="replace another corpus that stands in --dest")


def add_text(parser: argparse.ArgumentParser) -> None:
    """Flags of a text of one's own."""
    from ..data.prepare import corpus

    for split in corpus.SPLITS:
        parser.add_argument(f"--{split}", type=Path, metavar="FILE", help=f"text to {split}: plain or .gz, or a folder")
    parser.add_argument("--text", type=Path, metavar="FILE", help="one text, in place of these three; see --split")
    parser.add_argument(
        "--split",
        default="90,5,5",
        metavar="A,B,C",
        help="percent of the lines of --text for train, valid and test, which follow each other (default: 90,5,5)",
    )
    forms = parser.add_mutually_exclusive_group()
    for flag, units, what in (
        ("--characters", corpus.CHARACTERS, "each character is a token"),
        ("--words", corpus.WORDS, "tokens stand between white space (the default)"),
    ):
        forms.add_argument(flag, dest="units", action="store_const", const=units, default=corpus.WORDS, help=what)
    forms.add_argument("--bpe", type=int, metavar="MERGES", help="tokens are pieces of words, by byte-pair encoding")
    forms.add_argument("--codes", type=Path, metavar="FILE", help="cut words with these merges of fastBPE")
    parser.add_argument("--moses", metavar="LANG", help="tokenize first, as Moses does for this language, e.g. en")
    parser.add_argument("--dict", type=Path, metavar="FILE", help="the dict.txt of a model, in place of one of its own")


def run(arguments: argparse.Namespace) -> int:
    """Does what is not done yet."""
    from ..data.prepare import own_text, python_source, shakespeare

    dest = arguments.dest_flag or getattr(arguments, "dest", None)
    if dest is None:
        raise UsageError("--dest is missing: name the folder to make")
    makers: Any = {
        "text": lambda: own_text.prepare_from_flags(dest, arguments),
        "shakespeare": lambda: shakespeare.prepare(dest, arguments.offline, arguments.force),
        "python": lambda: python_source.prepare(dest, force=arguments.force),
    }
    makers[arguments.corpus]()
    return 0
