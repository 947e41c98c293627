r"""Text to a folder that fairseq trains on: DEST/{train,valid,test}.txt and DEST/data-bin.

Shared by prepare_shakespeare.py and prepare_text.py, and usable from Python:

    prepare(Path("runs/mine"), Corpus("mine", CHARACTERS, {"train": lines, "valid": ..., "test": ...}))

How characters are written. Every character becomes one token and each line of text stays one line,
blank ones too, so that fairseq's `</s>` stands exactly where the text has a line end: there are as
many tokens as characters. A space becomes `_`; a real `_` and all other white space (a tab, say)
become `\u` and their hexadecimal code, `\u5f` for `_`. No other token is longer than one character,
so `decode_characters` undoes it without doubt. Line ends are made `\n`, a byte order mark is
dropped, and a last line without an end gets one; all else survives.

How an interrupted run stays safe. Everything is written to DEST/.unfinished and renamed when whole.
DEST/corpus.json says what the texts were made from and what they hash to; data-bin carries a copy
of the one that it was made from.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("train", "valid", "test")
CHARACTERS = "characters"
WORDS = "words"
MANIFEST = "corpus.json"
UNFINISHED = ".unfinished"

Manifest = dict[str, Any]


class CorpusError(Exception):
    """What the user did or has that cannot work, in one line."""


@dataclass(frozen=True)
class Corpus:
    """What to prepare: the lines of each split, without their line ends."""

    source: str  # shown to the user and kept in corpus.json
    units: str  # CHARACTERS or WORDS
    splits: Mapping[str, Iterable[str]]
    inputs: str = ""  # a hash of what the lines are read from: another one means DEST is outdated


def encode_characters(line: str) -> str:
    return " ".join(map(_encode_character, line))


@functools.cache
def _encode_character(character: str) -> str:
    if character == " ":
        return "_"
    if character == "_" or character.isspace():
        return f"\\u{ord(character):x}"
    return character


def decode_characters(line: str) -> str:
    return "".join(map(_decode_character, line.split()))


def _decode_character(token: str) -> str:
    if token == "_":
        return " "
    if len(token) > 1:
        return chr(int(token[2:], 16))
    return token


def encode_words(line: str) -> str:
    return " ".join(line.split())


ENCODE: dict[str, Callable[[str], str]] = {CHARACTERS: encode_characters, WORDS: encode_words}


def read_lines(path: Path, flag: str) -> Iterator[str]:
    r"""The lines of a UTF-8 file without their ends, whether these are `\n`, `\r\n` or `\r`."""
    number = 0
    empty = True
    try:
        # Read as bytes, because a text file decodes ahead and could not say which line is at fault.
        with open(path, "rb") as file:
            for raw in file:
                number += 1
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                empty = empty and not text.strip()
                yield from text.removesuffix("\n").removesuffix("\r").split("\r")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{flag} {path} is not UTF-8 (byte 0x{error.object[error.start]:02x} in line "
            f"{number}): convert it, for instance with iconv -f latin1 -t utf-8"
        ) from error
    except OSError as error:
        raise CorpusError(f"{flag} {path} cannot be read ({error.strerror}): name a text file") from error
    if empty:
        raise CorpusError(f"{flag} {path} holds no text: name a file that does")


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def prepare(dest: Path, corpus: Corpus) -> Manifest:
    """Writes the texts and data-bin, or what of them is not there yet."""
    manifest = whole_texts(dest)
    made_from = (corpus.source, corpus.units, corpus.inputs)
    if manifest is None or made_from != tuple(manifest[k] for k in ("source", "units", "inputs")):
        write_texts(dest, corpus)
    return binarize(dest)


def whole_texts(dest: Path) -> Manifest | None:
    """The manifest of DEST, if its texts are what it says."""
    manifest = _read_manifest(dest)
    if manifest is None:
        return None
    for split, facts in manifest["splits"].items():
        path = dest / f"{split}.txt"
        if not path.exists() or file_hash(path) != facts["sha256"]:
            return None
    return manifest


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_texts(dest: Path, corpus: Corpus) -> Manifest:
    _refuse_foreign_files(dest)
    scratch = _empty_scratch(dest)
    print(f"writing the texts of {corpus.source} to {dest}", flush=True)
    facts = {}
    for split in SPLITS:
        path = scratch / f"{split}.txt"
        lines, tokens = _write_split(path, corpus.splits[split], ENCODE[corpus.units])
        facts[split] = {"lines": lines, "tokens": tokens, "sha256": file_hash(path)}
        print(f"  {split}: {lines:,} lines, {tokens:,} {corpus.units} (line ends included)")
    manifest = {
        "source": corpus.source,
        "units": corpus.units,
        "inputs": corpus.inputs,
        "splits": facts,
    }
    (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    # The manifest goes first: it makes the texts after it ours, and its hashes tell whether all
    # of them have arrived.
    for name in (MANIFEST, *(f"{split}.txt" for split in SPLITS)):
        os.replace(scratch / name, dest / name)
    shutil.rmtree(scratch)
    return manifest


def _refuse_foreign_files(dest: Path) -> None:
    if dest.exists() and not dest.is_dir():
        raise CorpusError(f"{dest} is a file: name a folder to make or to fill")
    proofs = {f"{split}.txt": MANIFEST for split in SPLITS}
    proofs["data-bin"] = f"data-bin/{MANIFEST}"
    for name, proof in proofs.items():
        if (dest / name).exists() and not (dest / proof).exists():
            raise CorpusError(f"{dest / name} was not made by this script: name another folder")


def _empty_scratch(dest: Path) -> Path:
    scratch = dest / UNFINISHED
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    except OSError as error:
        raise CorpusError(f"{dest} cannot be written ({error.strerror}): name another folder") from error
    return scratch


def _write_split(path: Path, lines: Iterable[str], encode: Callable[[str], str]) -> tuple[int, int]:
    """Returns the number of lines and of tokens, each line's `</s>` being one."""
    count = tokens = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            encoded = encode(line)
            count += 1
            tokens += len(encoded.split()) + 1
            file.write(encoded + "\n")
    return count, tokens


def binarize(dest: Path) -> Manifest:
    """Makes data-bin from the texts of DEST, unless it is there and was made from them."""
    manifest = _read_manifest(dest)
    if manifest is None:
        raise CorpusError(f"{dest} has no {MANIFEST}: its texts were not made by this script")
    if _read_manifest(dest / "data-bin") == manifest:
        print(f"{dest} is finished ({manifest['source']}), nothing to do", flush=True)
        return manifest
    _refuse_foreign_files(dest)
    if importlib.util.find_spec("fairseq_cli") is None:
        raise CorpusError(f"{sys.executable} has no fairseq: run bash scripts/bootstrap.sh, then .venv/bin/python")
    print(f"running fairseq-preprocess into {dest / 'data-bin'}", flush=True)
    scratch = _empty_scratch(dest)
    built = scratch / "data-bin"
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "--only-source"]
    command += ["--destdir", str(built), "--workers", str(min(2, os.cpu_count() or 1))]
    for split in SPLITS:
        command += [f"--{split}pref", str(dest / f"{split}.txt")]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode != 0:
        last = (run.stdout.strip() or "no output").splitlines()[-1]
        raise CorpusError(f"fairseq-preprocess failed ({last}); to see it all: {' '.join(command)}")
    shutil.copy(dest / MANIFEST, built / MANIFEST)
    if (dest / "data-bin").exists():
        os.replace(dest / "data-bin", scratch / "outdated")
    os.replace(built, dest / "data-bin")
    shutil.rmtree(scratch)
    return manifest
