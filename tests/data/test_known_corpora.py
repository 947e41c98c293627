"""Well-known corpora from tiny archives of the same layout, served from this machine by mirrors of all kinds."""

import hashlib
import http.server
import io
import os
import resource
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest
from commands import ROOT

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.core.errors import UsageError
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_download_shows_its_progress_on_a_terminal(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    monkeypatch.setattr("sys.stderr", said := stream())
    fetch.obtain(known(mirrors, "good"), None, cache=tmp_path)
    assert ("tiny.zip: " in said.getvalue()) == said.isatty()


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


def test_a_folder_that_is_another_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be anything, a home directory for instance."""
    monkeypatch.setattr(wikitext103, "file_hash", lambda path: pytest.fail(f"{path} is read"))
    with pytest.raises(
        UsageError, match="has no wiki.train.tokens: name wikitext-103-v1.zip, or a folder of its files"
    ):
        wikitext103.prepare(tmp_path / "dest", tmp_path)


OFFLINE = """
import sys
from lamemo_fairseq.cli.main import main
for name in ("wikitext-103", "enwik8", "text8", "pg19"):
    assert main(["prepare", name, "--dest", "dest", "--cache", "cache"]) == 1
"""


def test_without_a_network_it_is_one_line_each(tmp_path: Path) -> None:
    """In a process of its own, in which fairseq has set logging up."""
    nobody = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    around = {**os.environ, **nobody, "NO_PROXY": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", OFFLINE], cwd=tmp_path, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and all(line.startswith("lamemo prepare: ") and "--archive" in line for line in lines), lines
    assert not (tmp_path / "dest").exists() and not list(tmp_path.glob("cache/*"))


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
