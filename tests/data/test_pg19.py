"""PG-19: books downloaded one by one or taken from a folder, divided by the published words."""

import hashlib
import http.server
import json
import threading
from base64 import b64encode
from pathlib import Path
from typing import Dict, List
from urllib.parse import parse_qsl, urlsplit

import pytest
from test_known_corpora import prepare

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import fetch, pg19
from lamemo_fairseq.data.prepare.bucket import Bucket
from lamemo_fairseq.data.prepare.forms import Form


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
    changed: List[str] = []

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
            content = content.upper() if where.path in self.changed else content
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
        monkeypatch.setattr(Storage, "changed", ["/tiny/test/2.txt"])
        with pytest.raises(
            UsageError, match=r"^2.txt could not be downloaded \(http.*test/2.txt: another checksum\): "
        ):
            pg19.prepare(tmp_path / "other", None, Form(), cache=tmp_path / "second", bucket=bucket)
        assert not (tmp_path / "other").exists() and not list(tmp_path.glob("second/pg19/test/2.txt*"))
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
