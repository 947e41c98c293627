"""enwik8 and text8 from tiny archives of the same layout: bytes as tokens and back, what is no such file."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest
from fairseq.registry import REGISTRIES
from test_known_corpora import prepare, zipped

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.byte_tokens import TOKENS, decode_bytes, encode_bytes
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import hutter

#: 40 bytes of two lines' ends, characters of two bytes (one across the end of train), and a byte that no UTF-8 has
RAW = "né\n é".encode() + b"\xff ab\ncd " * 3 + "x é".encode() + b" z"

BENCHMARK = replace(hutter.ENWIK8, sizes=(len(RAW) - 8, 4, 4), sha1=hashlib.sha1(RAW).hexdigest())


@pytest.mark.parametrize("ends", ["drop", "keep"])
@pytest.mark.parametrize("packed", [True, False])
def test_enwik8(tmp_path: Path, ends: str, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hutter, "CHUNK", 7)
    archive = tmp_path / "archive"
    archive.write_bytes(zipped({"enwik8": RAW}) if packed else RAW)
    own = replace(BENCHMARK.archive, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    hutter.prepare(replace(BENCHMARK, archive=own), tmp_path / "dest", archive, ends)
    other = replace(BENCHMARK, archive=own, sha1="0")
    with pytest.raises(UsageError, match=f"has sha1 {BENCHMARK.sha1}, not 0: fetch it again"):
        hutter.prepare(other, tmp_path / "other", archive, ends)
    assert not (tmp_path / "other").exists()
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(tmp_path / "dest/data-bin/dict.txt"))
    begin = 0
    for split, size in zip(("train", "valid", "test"), BENCHMARK.sizes):
        raw, begin = RAW[begin : begin + size], begin + size
        kept = raw if ends == "keep" else raw.replace(b"\n", b"")
        entries = data_utils.load_indexed_dataset(str(tmp_path / "dest/data-bin" / split), dictionary)
        tokens = [dictionary[int(token)] for entry in entries for token in entry]
        assert len(tokens) == len(kept) and "<unk>" not in tokens
        assert "".join(chr(10) if t == "</s>" else t for t in tokens) == encode_bytes(raw).replace(" ", "").replace(
            r"\ua", "\n" if ends == "keep" else ""
        )
        counts = read_counts(str(tmp_path / "dest/data-bin"), split)
        assert counts is not None and counts.tokens == counts.bytes == len(kept)
        assert (counts.words, counts.lines) == (len(raw.split()), raw.count(b"\n") * (ends == "keep"))
        assert counts.characters == sum(byte & 0xC0 != 0x80 for byte in kept)


def test_every_byte_is_a_character_of_its_dictionary() -> None:
    """Also of enwik8's, in which more bytes are escaped than not: bits per byte can choose its best checkpoint."""
    from fairseq.data import Dictionary

    from lamemo_fairseq.data.spelling import Spelling

    for symbols in (TOKENS, TOKENS[128:], [token for token in TOKENS if len(token) == 1]):
        dictionary = Dictionary()
        for symbol in symbols:
            dictionary.add_symbol(symbol)
        spelling = Spelling.of(dictionary)
        assert spelling.is_characters and set(spelling.lengths.tolist()) == {1}


def test_bytes_are_decoded() -> None:
    for text in ("naïve _\t\\x41\n", "中"):
        assert decode_bytes(encode_bytes(text.encode())) == text
    assert decode_bytes(encode_bytes(b"a\xff")) == "a\ufffd"
    bpe = REGISTRIES["bpe"]["registry"]["text_bytes"](None)  # --bpe text_bytes
    assert bpe.encode("é a") == "\\xc3 \\xa9 _ a" and bpe.decode(bpe.encode("é a")) == "é a"


def test_bad_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, dest = tmp_path / "enwik8", tmp_path / "dest"
    path.write_bytes(RAW)
    flags = ["enwik8", "--dest", dest, "--archive", path]
    prepare(*flags, problem=f"enwik8 has 100,000,000 bytes, not {len(RAW)}", capsys=capsys)
    path.write_bytes(zipped({"text8": RAW}))
    prepare(*flags, problem="has sha256", capsys=capsys)
    prepare(*flags, "--unchecked", problem="holds no enwik8", capsys=capsys)
    damaged = bytearray(zipped({"enwik8": os.urandom(500)}))
    damaged[100] ^= 255
    path.write_bytes(damaged)
    prepare(*flags, "--unchecked", problem="is damaged", capsys=capsys)
    prepare("text8", "--dest", dest, "--unchecked", problem="--unchecked is for an --archive", capsys=capsys)
    assert not dest.exists()
    path.write_bytes(zipped({"enwik8": RAW * 10}))
    prepare(*flags, "--unchecked", capsys=capsys)
    assert read_counts(str(dest / "data-bin"), "test").bytes > 0  # type: ignore[union-attr]
    prepare(*flags, "--unchecked", "--line-ends", "keep", problem="--force", capsys=capsys)


#: what a download may turn out to be, with which words it is refused whatever --unchecked says
WRONG: Dict[str, Tuple[Any, str]] = {
    "a folder": (None, "is not a file"),
    "nothing": (b"", "has 0 bytes"),
    "too much": (100_000_001, "has more bytes"),
    "half of it": (zipped({"enwik8": RAW, "text8": RAW})[:-30], "is a zip archive that is cut off or damaged"),
    "other files": (zipped({"readme": RAW}), "holds no"),
    "gzip": (b"\x1f\x8b" + RAW, "is packed with gzip"),
    "bzip2": (b"BZh9" + RAW, "is packed with bzip2"),
    "an error": (b"<!DOCTYPE html>" + RAW, "is a web page"),
}


@pytest.mark.parametrize("name", ["enwik8", "text8", "wikitext-103", "pg19"])
@pytest.mark.parametrize("kind", WRONG)
def test_the_wrong_kind_of_archive(tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture) -> None:
    """One line for each, and nothing is written."""
    content, problem = WRONG[kind]
    archive, dest = tmp_path / "archive", tmp_path / "dest"
    if content is None:
        archive.mkdir()
    elif isinstance(content, int):
        archive.touch()
        os.truncate(archive, content)
    else:
        archive.write_bytes(content)
    if name in ("wikitext-103", "pg19"):
        problem = "--archive"
    prepare(name, "--dest", dest, "--archive", archive, "--unchecked", problem=problem, capsys=capsys)
    assert not dest.exists()
