"""Well-known corpora from tiny archives of the same layout, served from this machine by mirrors of all kinds."""

import hashlib
import http.server
import io
import json
import os
import resource
import sys
import threading
import zipfile
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qsl, urlsplit

import pytest

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import fetch, hutter, pg19, python_source, wikitext103
from lamemo_fairseq.data.prepare.bucket import Bucket
from lamemo_fairseq.data.prepare.fetch import Archive
from lamemo_fairseq.data.prepare.forms import Form

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


class Storage(http.server.BaseHTTPRequestHandler):
    """A bucket of Google's storage in small: two files a page, and an answer that breaks off."""

    books: Dict[str, bytes] = {}
    asked: List[str] = []
    broken: List[str] = []

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        self.asked.append(where.path)
        if where.path == "/storage/v1/b/tiny/o":
            query = dict(parse_qsl(where.query))
            names = sorted(name for name in self.books if name.startswith(query["prefix"]))
            start = int(query.get("pageToken", 0))
            sums = {name: b64encode(hashlib.md5(self.books[name]).digest()).decode() for name in names}
            items = [{"name": n, "size": str(len(self.books[n])), "md5Hash": sums[n]} for n in names[start : start + 2]]
            more = {"nextPageToken": str(start + 2)} if len(names) > start + 2 else {}
            self.answer(json.dumps({"items": items, **more}).encode())
        else:
            content = self.books[where.path.removeprefix("/tiny/")]
            span = self.headers.get("Range")
            start = int(span[6:-1]) if span else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = where.path in self.broken and self.broken.remove(where.path) is None
            self.wfile.write(content[start : len(content) // 2 if cut else None])

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *unused: object) -> None:
        pass


def test_pg19_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed page by page, each book once; resumed where a connection broke; a second run asks for the lists alone."""
    monkeypatch.setattr(fetch, "BLOCK", 8)
    texts = {
        f"{folder}/{number}.txt": f"book {number} of {folder}\n"
        for folder in pg19.FOLDERS.values()
        for number in range(3)
    }
    names = [*texts, "metadata.csv", "train/../../../evil.txt", "train/"]
    monkeypatch.setattr(Storage, "books", {name: texts.get(name, "other").encode() for name in names})
    monkeypatch.setattr(Storage, "asked", asked := [])
    monkeypatch.setattr(Storage, "broken", ["/tiny/train/1.txt"])
    monkeypatch.setattr(pg19, "BOOKS", dict.fromkeys(pg19.BOOKS, 3))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        bucket = Bucket("tiny", f"http://127.0.0.1:{server.server_address[1]}")
        for _ in range(2):
            pg19.prepare(tmp_path / "dest", None, Form(), cache=tmp_path / "cache", bucket=bucket)
            assert sorted(path for path in asked if not path.startswith("/storage")) == sorted(
                [*(f"/tiny/{name}" for name in texts), "/tiny/train/1.txt"]
            )
        server.shutdown()
    assert (tmp_path / "dest/test.txt").read_text() == "".join(texts[f"test/{number}.txt"] for number in range(3))
    kept = sorted(path.relative_to(tmp_path / "cache/pg19").as_posix() for path in tmp_path.glob("cache/pg19/*/*"))
    assert kept == sorted(texts)
    with pytest.raises(UsageError, match=r"^gs://tiny cannot be listed \(ConnectionError\): .* --archive DIR$"):
        pg19.prepare(tmp_path / "dest", None, Form(), cache=tmp_path / "cache", bucket=bucket)


def test_pg19(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    books, dest = tmp_path / "books", tmp_path / "dest"
    for folder in pg19.FOLDERS.values():
        (books / folder).mkdir(parents=True)
        for number in (9, 10):
            (books / folder / f"{number}.txt").write_text(f"book {number}\nin {folder}\n")
    flags = ["pg19", "--dest", dest, "--archive", books]
    prepare(*flags, problem="2 books in train/, not 28,602", capsys=capsys)
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
