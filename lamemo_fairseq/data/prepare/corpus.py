r"""Text to a folder that fairseq trains on: DEST/{train,valid,test}.txt and DEST/data-bin.

    prepare(Path("runs/mine"), Corpus("mine", CHARACTERS, {"train": lines, "valid": ..., "test": ...}))

A line of text stays a line, blank ones too, so that fairseq's ``</s>`` stands exactly where the text has a line end.
Characters are written as ``data/characters.py`` says. Line ends are made ``\n``, a byte order mark is dropped, and a
last line without an end gets one; all else survives.

How an interrupted run stays safe. Everything is written to DEST/.unfinished and renamed when whole. DEST/corpus.json
says what the texts were made from and what they hash to, and counts the original text (see ``data/counts.py``);
data-bin carries a copy of the one that it was made from, with its unknown tokens added.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...core.errors import UsageError
from ..byte_tokens import encode_bytes
from ..characters import encode_character
from ..counts import CORPUS_FILE, TextCounts
from . import binarize as files
from .known import Known
from .read import file_hash

SPLITS = ("train", "valid", "test")
CHARACTERS = "characters"
WORDS = "words"
BYTES = "bytes"
MANIFEST = CORPUS_FILE
UNFINISHED = ".unfinished"
DICT = "dict.txt"
CODES = "codes"  # the file of merges, beside the texts
SENTENCEPIECE = "spm.model"  # or this
EXTRAS = (DICT, CODES, SENTENCEPIECE)  # what may stand beside the texts

Manifest = dict[str, Any]
Encoder = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True)
class Corpus:
    """What to prepare.

    Attributes:
        source: shown to the user and kept in corpus.json.
        units: CHARACTERS, BYTES, or WORDS, also pieces of words.
        splits: the original lines of each split, without their line ends.
        inputs: a hash of what the lines are read from.
        encode: lines as tokens with blanks between them; None: as ``units`` says.
        line_ends: whether ``</s>`` stands behind each line; False: the lines are pieces of one text without a break,
            in which a line end, where it is kept, is a token ``</s>`` of its own.
        counts: makes what counts the lines.
        vocabulary: splits whose symbols are in the dictionary.
        extras: files that travel with the data: CODES that cut its words, a DICT that was given.
        moses: language of the Moses tokenizer that ``encode`` begins with; kept in corpus.json, so that prompts are
            tokenized alike (``data/text_form.py``).
        known: what was published of it.
    """

    source: str
    units: str
    splits: Mapping[str, Iterable[str]]
    inputs: str = ""
    encode: Encoder | None = None
    extras: Mapping[str, Path] = field(default_factory=dict)
    moses: str | None = None
    line_ends: bool = True
    counts: Callable[[], TextCounts] = TextCounts
    vocabulary: tuple[str, ...] = ("train",)
    known: Known = Known()

    @property
    def tokens_are(self) -> str:
        """What a user is told that the tokens are."""
        cut = {CODES, SENTENCEPIECE} & self.extras.keys()
        ends = " and line ends" if self.line_ends else ""
        return ("pieces of words" if cut else self.units) + ends


def encode_characters(line: str) -> str:
    """A line as characters."""
    return " ".join(map(encode_character, line))


def encode_words(line: str) -> str:
    """A line as what white space separates."""
    return " ".join(line.split())


def encode_line_bytes(line: str) -> str:
    """A line as bytes of UTF-8."""
    return encode_bytes(line.encode("utf-8"))


ENCODE: dict[str, Callable[[str], str]] = {
    CHARACTERS: encode_characters,
    WORDS: encode_words,
    BYTES: encode_line_bytes,
}


def prepare(dest: Path, corpus: Corpus, force: bool = False) -> Manifest:
    """Writes the texts and data-bin, or what of them is not there yet.

    Raises:
        UsageError: another corpus stands in ``dest`` and is not to be replaced, or ``dest`` cannot be written.
    """
    if not is_whole(dest, corpus):
        check_replaces_nothing(dest, corpus, force)
        write_texts(dest, corpus)
    return binarize(dest)


def is_whole(dest: Path, corpus: Corpus) -> bool:
    """Whether the texts of ``corpus`` stand in ``dest``."""
    manifest = whole_texts(dest)
    return manifest is not None and not differences(manifest, corpus)


def differences(manifest: Manifest, corpus: Corpus) -> list[str]:
    """In what ``corpus`` is not the one of ``manifest``, in words."""
    found = []
    for name, said in (("source", corpus.source), ("units", corpus.units)):
        if manifest.get(name) != said:
            found.append(f"{name} {manifest.get(name)!r}, not {said!r}")
    if not found and manifest.get("inputs") != corpus.inputs:
        found.append("made from files of the same names with other content")
    return found


def check_replaces_nothing(dest: Path, corpus: Corpus, force: bool) -> None:
    """Raises ``UsageError`` where ``dest`` holds another corpus, or the same in another form."""
    manifest = _read_manifest(dest)
    if manifest is None or force:
        return
    other = differences(manifest, corpus)
    if other:
        raise UsageError(f"--dest {dest} holds another corpus ({'; '.join(other)}): name another folder, or --force")


def whole_texts(dest: Path) -> Manifest | None:
    """The manifest of DEST, if its texts are what it says."""
    manifest = _read_manifest(dest)
    if manifest is None:
        return None
    hashes = {f"{split}.txt": facts["sha256"] for split, facts in manifest["splits"].items()}
    hashes.update(manifest.get("extras", {}))
    for name, expected in hashes.items():
        if not (dest / name).exists() or file_hash(dest / name) != expected:
            return None
    return manifest


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "splits" in manifest else None


def write_texts(dest: Path, corpus: Corpus) -> Manifest:
    """Encodes all splits, then puts them into DEST."""
    with scratch_of(dest) as scratch:
        print(f"writing the texts of {corpus.source} to {dest}", flush=True)
        facts = {split: _write_split(scratch, split, corpus) for split in SPLITS if split in corpus.splits}
        corpus.known.check_types(corpus.source, scratch / "train.txt", corpus.line_ends)
        for name, path in corpus.extras.items():
            shutil.copyfile(path, scratch / name)
        manifest = {
            "source": corpus.source,
            "units": corpus.units,
            "inputs": corpus.inputs,
            "splits": facts,
            "extras": {name: file_hash(scratch / name) for name in corpus.extras},
            "line_ends": corpus.line_ends,
            "vocabulary": list(corpus.vocabulary),
            **({} if corpus.moses is None else {"moses": corpus.moses}),
        }
        _write_manifest(scratch, manifest)
        # The manifest goes first: it makes the texts after it ours, and its hashes tell whether all have arrived.
        for name in (MANIFEST, *(f"{split}.txt" for split in facts), *corpus.extras):
            os.replace(scratch / name, dest / name)
        for name in (*(f"{split}.txt" for split in SPLITS if split not in facts), *set(EXTRAS) - set(corpus.extras)):
            (dest / name).unlink(missing_ok=True)  # of a corpus that was replaced
    return manifest


def _write_split(folder: Path, split: str, corpus: Corpus) -> dict[str, Any]:
    """Writes a text; returns what the manifest says of it: counts of the original, and tokens with each ``</s>``."""
    path, counts, tokens = folder / f"{split}.txt", corpus.counts(), 0
    bar = tqdm(corpus.splits[split], desc=f"encoding {split}", unit="", unit_scale=True, disable=None, leave=False)
    original = counts.counting(bar)
    encoded = map(ENCODE[corpus.units], original) if corpus.encode is None else corpus.encode(original)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in encoded:
            tokens += len(line.split()) + corpus.line_ends
            file.write(line + "\n")
    print(
        f"  {split}: {counts.lines:,} lines, {counts.words:,} words, {counts.characters:,} characters, "
        f"{counts.bytes:,} bytes as {tokens:,} tokens ({corpus.tokens_are})"
    )
    corpus.known.check_tokens(corpus.source, split, tokens)
    sizes = {name: getattr(counts, name) for name in ("lines", "words", "characters", "bytes")}
    sizes["words"] = corpus.known.words_of(split, counts.words)
    return {**sizes, "tokens": tokens, "sha256": file_hash(path)}


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scratch_of(dest: Path) -> Iterator[Path]:
    """An empty folder in DEST for what is not whole yet. Afterwards it is gone, also where the disk was full."""
    _refuse_foreign_files(dest)
    scratch, existed = dest / UNFINISHED, dest.exists()
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        raise UsageError(f"--dest {dest} cannot be written ({error.strerror}): free room, or name another") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # something whole stands in it, or it was never made
                dest.rmdir()


def _refuse_foreign_files(dest: Path) -> None:
    if dest.exists() and not dest.is_dir():
        raise UsageError(f"--dest {dest} is a file: name a folder to make or to fill")
    proofs = {name: MANIFEST for name in (*(f"{split}.txt" for split in SPLITS), *EXTRAS)}
    proofs["data-bin"] = f"data-bin/{MANIFEST}"
    for name, proof in proofs.items():
        if (dest / name).exists() and not (dest / proof).exists():
            raise UsageError(f"{dest / name} was not made by lamemo prepare: name another folder")


def binarize(dest: Path) -> Manifest:
    """Makes data-bin from the texts of DEST, unless it is there and was made from them."""
    manifest = _read_manifest(dest)
    if manifest is None:
        raise UsageError(f"{dest} has no {MANIFEST}: its texts were not made by lamemo prepare")
    made = _read_manifest(dest / "data-bin")
    if made is not None and _without_unknown(made) == manifest:
        print(f"{dest} is finished ({manifest['source']}), nothing to do", flush=True)
        return made
    with scratch_of(dest) as scratch:
        built = scratch / "data-bin"
        built.mkdir()
        for name in manifest.get("extras", {}):
            shutil.copyfile(dest / name, built / name)
        if DICT not in manifest.get("extras", {}):
            counts = [files.count_tokens(dest / f"{split}.txt") for split in manifest.get("vocabulary", ["train"])]
            files.write_dictionary(built / DICT, sum(counts, Counter()))
        numbers = files.read_dictionary(built / DICT)
        made = json.loads(json.dumps(manifest))
        assert made is not None
        for split, facts in made["splits"].items():
            _, facts["unknown"] = files.binarize(
                dest / f"{split}.txt", built / split, numbers, manifest.get("line_ends", True)
            )
            share = facts["unknown"] / facts["tokens"]
            print(f"  {split}: {facts['tokens']:,} tokens, {facts['unknown']:,} ({share:.2%}) of them unknown")
        _write_manifest(built, made)
        if (dest / "data-bin").exists():
            os.replace(dest / "data-bin", scratch / "outdated")
        os.replace(built, dest / "data-bin")
    print(f"{dest / 'data-bin'}: {len(numbers):,} types", flush=True)
    return made


def _without_unknown(manifest: Manifest) -> Manifest:
    splits = {
        split: {name: value for name, value in facts.items() if name != "unknown"}
        for split, facts in manifest["splits"].items()
    }
    return {**manifest, "splits": splits}
