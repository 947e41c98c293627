"""Well-known corpora from tiny archives of the same layout, served from this machine by mirrors of all kinds."""

import hashlib
import http.server
import io
import os
import resource
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from fairseq.registry import REGISTRIES

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.byte_tokens import TOKENS, decode_bytes, encode_bytes
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import fetch, hutter, pg19, python_source, wikitext103
from lamemo_fairseq.data.prepare.fetch import Archive

ARTICLE = " \n = Title {0} = \n \n A <unk> article of {0} words . \n" * 4


def zipped(files: Dict[str, bytes]) -> bytes:
    """A zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def wikitext(**more: bytes) -> bytes:
    """Of the layout of WikiText-103's archive."""
    texts = {f"wikitext-103/wiki.{split}.tokens": ARTICLE.format(split).encode() for split in wikitext103.TOKENS}
    return zipped({**texts, **more})


class Mirrors:
    """A web server with a mirror of each kind; ``asked`` lists the path and Range of each request."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: List[str] = []
        mirrors = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirrors.answer(self)

            def log_message(self, *unused: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{kind}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        kind, span = request.path[1:], request.headers.get("Range")
        self.asked.append(kind + (f" {span}" if span else ""))
        content = {"corrupt": self.content[:-1] + b"?", "large": self.content * 2}.get(kind, self.content)
        if kind == "absent" or (kind == "picky" and "Mozilla" not in request.headers["User-Agent"]):
            request.send_error(404 if kind == "absent" else 403)
            return
        start = int(span[6:-1]) if span and kind != "forgetful" else 0
        request.send_response(206 if start else 200)
        if kind != "endless":
            request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        broken = kind in ("breaking", "forgetful") and start < len(content) // 2 and len(self.asked) == 1
        request.wfile.write(content[start : len(content) // 2 if broken else None])
        if kind == "endless":
            request.wfile.write(bytes(len(content)))


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    monkeypatch.setattr(fetch, "BLOCK", 64)
    served = Mirrors(wikitext())
    yield served
    served.server.shutdown()


def known(mirrors: Mirrors, *kinds: str, **changes: Any) -> Archive:
    """The archive that the mirrors serve."""
    sha256 = hashlib.sha256(mirrors.content).hexdigest()
    archive = Archive("tiny.zip", tuple(map(mirrors.url, kinds)), sha256, len(mirrors.content))
    return replace(archive, **changes)


def test_downloaded_once(mirrors: Mirrors, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch.obtain(known(mirrors, "picky"), None, cache=tmp_path)
        assert path.read_bytes() == mirrors.content
    assert mirrors.asked == ["picky"] and [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]


@pytest.mark.parametrize("kind", ["breaking", "forgetful"])
def test_a_broken_connection_is_resumed(mirrors: Mirrors, tmp_path: Path, kind: str) -> None:
    whole_blocks = len(mirrors.content) // 2 // fetch.BLOCK * fetch.BLOCK
    assert fetch.obtain(known(mirrors, kind), None, cache=tmp_path).read_bytes() == mirrors.content
    assert mirrors.asked == [kind, f"{kind} bytes={whole_blocks}-"]


def test_what_an_earlier_run_left_is_resumed(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "tiny.zip.part").write_bytes(mirrors.content[:100])
    assert fetch.obtain(known(mirrors, "good"), None, cache=tmp_path).read_bytes() == mirrors.content
    assert mirrors.asked == ["good bytes=100-"]


@pytest.mark.parametrize("wrong", ["absent", "corrupt", "large", "endless"])
def test_a_wrong_mirror_first(mirrors: Mirrors, tmp_path: Path, wrong: str) -> None:
    assert fetch.obtain(known(mirrors, wrong, "good"), None, cache=tmp_path).read_bytes() == mirrors.content
    assert mirrors.asked == [wrong, "good"]


def test_no_mirror_has_it(mirrors: Mirrors, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="tiny.zip could not be downloaded .*absent: HTTPError; .*another checksum"
    ) as e:
        fetch.obtain(known(mirrors, "absent", "corrupt"), None, cache=tmp_path)
    assert "\n" not in str(e.value) and list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="more than 100 bytes"):
        fetch.obtain(known(mirrors, "endless", sha256=None, size=None, largest=100), None, cache=tmp_path)


def test_a_full_disk_while_downloading(mirrors: Mirrors, tmp_path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot be written \(File too large\).*--cache"):
            fetch.obtain(known(mirrors, "good"), None, cache=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert fetch.obtain(known(mirrors, "good"), None, cache=tmp_path).read_bytes() == mirrors.content


def prepare(*words: Any, problem: Optional[str] = None, capsys: pytest.CaptureFixture) -> str:
    """``lamemo prepare WORDS``; what it prints, or its one line where it is to fail."""
    argv = sys.argv
    try:
        code = cli.main(["prepare", *map(str, words)])
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    assert code == (problem is not None), err
    if problem is not None:
        assert problem in err and err.count("\n") == 1
    return out


def test_wikitext(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    dest, cache = tmp_path / "dest", tmp_path / "cache"
    archive_known = known(mirrors, "good")
    # The archive is not the real one.
    with pytest.raises(UsageError, match="WikiText-103 has 103,227,021 tokens in train, not 60: this is another text"):
        wikitext103.prepare(dest, cache=cache, known=archive_known)
    monkeypatch.setattr(wikitext103, "TOKENS", dict.fromkeys(wikitext103.TOKENS, 60))
    with pytest.raises(UsageError, match="WikiText-103 has 267,735 types in train, not 10: this is another text"):
        wikitext103.prepare(dest, cache=cache, known=archive_known)
    assert not dest.exists()
    monkeypatch.setattr(wikitext103, "TYPES", 10)
    wikitext103.prepare(dest, cache=cache, known=archive_known)
    counts = read_counts(str(dest / "data-bin"), "train")
    text = ARTICLE.format("train")
    assert counts is not None and (counts.lines, counts.characters, counts.words) == (16, len(text), len(text.split()))
    assert counts.unknown == 4  # <unk> stands in the text
    archive = tmp_path / "a.zip"
    archive.write_bytes(mirrors.content)
    prepare("wikitext-103", "--dest", dest, "--archive", archive, problem="has sha256", capsys=capsys)
    said = prepare("wikitext-103", "--dest", dest, "--archive", archive, "--unchecked", capsys=capsys)
    assert "nothing to do" in said and f"has sha256 {archive_known.sha256}" in said
    archive.write_bytes(zipped({"wiki.train.tokens": b"x"}))
    flags = ("--archive", archive, "--unchecked")
    prepare("wikitext-103", "--dest", tmp_path / "n", *flags, problem="no wiki.valid.tokens", capsys=capsys)
    archive.write_bytes(mirrors.content[:-40])
    prepare("wikitext-103", "--dest", tmp_path / "n", *flags, problem="is no zip archive", capsys=capsys)
    archive.write_bytes(
        wikitext(**{"wikitext-103/wiki.x": b"x"}).replace(b"wikitext-103/wiki.x", b"../../../../../evil")
    )
    prepare("wikitext-103", "--dest", tmp_path / "n", *flags, capsys=capsys)
    assert not list(tmp_path.parent.glob("**/evil")) and not os.path.exists("/evil")
    latin = {f"wiki.{split}.tokens": b"caf\xe9 \n" for split in wikitext103.TOKENS}
    archive.write_bytes(zipped(latin))
    prepare("wikitext-103", "--dest", tmp_path / "l", *flags, problem="wiki.train.tokens is not UTF-8", capsys=capsys)
    assert not (tmp_path / "l").exists()


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


def test_what_was_published() -> None:
    """Sizes, sums and counts by which a text is known."""
    archive = wikitext103.ARCHIVE
    assert (archive.size, archive.sha256) == (
        190_229_076,
        "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
    )
    assert wikitext103.TOKENS == {"train": 103_227_021, "valid": 217_646, "test": 245_569}
    assert wikitext103.TYPES == 267_735
    archive = hutter.ENWIK8.archive
    assert (archive.size, archive.sha256) == (
        36_445_475,
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    )
    assert hutter.ENWIK8.sha1 == "57b8363b814821dc9d47aa4d41f58733519076b2"
    assert hutter.TEXT8.sha1 == "0dc3edebc970dcc96137e7deda4d9995af9d93de"
    assert hutter.ENWIK8.sizes == hutter.TEXT8.sizes == (90_000_000, 5_000_000, 5_000_000)
    assert pg19.BOOKS == {"train": 28_602, "valid": 50, "test": 100}
    assert pg19.WORDS_PUBLISHED == {"train": 1_973_136_207, "valid": 3_007_061, "test": 6_966_499}


def test_pg19_is_divided_by_the_published_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Whatever white space parts; with any number of books (--unchecked) by what is counted."""
    monkeypatch.setattr(pg19, "BOOKS", {"train": 1, "valid": 1, "test": 1})
    for folder in pg19.FOLDERS.values():
        (tmp_path / "books" / folder).mkdir(parents=True)
        (tmp_path / "books" / folder / "1.txt").write_text("five words -- of text\n")
    for flags, words in (([], pg19.WORDS_PUBLISHED), (["--unchecked"], {"train": 5, "valid": 5, "test": 5})):
        dest = tmp_path / f"dest{len(flags)}"
        said = prepare("pg19", "--dest", dest, "--archive", tmp_path / "books", "--words", *flags, capsys=capsys)
        for split, number in words.items():
            counts = read_counts(str(dest / "data-bin"), split)
            assert counts is not None and (counts.words, counts.tokens) == (number, 6)
        assert ("divided by the 6,966,499 words that were published" in said) == (not flags)


def test_pg19(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    books, dest = tmp_path / "books", tmp_path / "dest"
    for folder in pg19.FOLDERS.values():
        (books / folder).mkdir(parents=True)
        for number in (9, 10):
            (books / folder / f"{number}.txt").write_text(f"book {number}\nin {folder}\n")
    flags = ["pg19", "--dest", dest, "--archive", books]
    prepare(*flags, problem="2 books in train/, not 28,602", capsys=capsys)
    prepare(*flags[:3], problem="gsutil", capsys=capsys)
    prepare(*flags, "--unchecked", "--words", capsys=capsys)
    assert (dest / "train.txt").read_text() == "book 9\nin train\nbook 10\nin train\n"
    prepare(*flags, "--unchecked", problem="--force", capsys=capsys)  # the default is pieces


class Project:
    """An installed project, as ``importlib.metadata`` shows it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.metadata = folder, {"Name": name}
        self.files = [Path(name, file) for file in ("a.py", "tests/b.py", "c.txt", "test_d.py")]
        for file in self.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(f"# {name} {file.name}\n")

    def locate_file(self, file: Path) -> Path:
        return self.folder / file


def test_projects_stay_whole(tmp_path: Path) -> None:
    projects: List[Any] = [Project(tmp_path / "site", f"project{number}") for number in range(60)]
    python_source.prepare_site_packages(tmp_path / "dest", projects)
    for project in projects:
        name = project.metadata["Name"]
        text = (tmp_path / f"dest/{python_source.file_split(name)}.txt").read_text().replace(" ", "").replace("_", " ")
        assert f"# {name} a.py\n" in text and f"# {name} b.py" not in text and f"# {name} c.txt" not in text
    with pytest.raises(UsageError, match="too few projects"):
        python_source.prepare_site_packages(tmp_path / "few", projects[:1])
