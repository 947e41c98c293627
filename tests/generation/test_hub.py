"""Models on the hub, against a hub on loopback: the package's own client talks to it over HTTP."""

import base64
import json
import os
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from commands import ROOT
from interpreters import fresh

from lamemo_fairseq.cli.main import main
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.generation.hub import local_directory, push

OLD = ROOT / "tests" / "checkpoints"
COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """What of the hub's protocol a push and a fetch use, for one model."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: Dict[str, bytes] = {}
        self.created = b""
        self.tokens: set = set()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        if self.path == "/api/repos/create":
            self.server.created = body
            self.answer({"url": f"{self.server.address}/me/model"})
        elif self.path == "/api/validate-yaml":  # of the card
            assert json.loads(body)["content"].startswith("---\nlicense: unknown\n")
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}/me/model/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        where, _, name = self.path.partition(f"/resolve/{COMMIT}/")
        files = self.server.files
        if self.path.startswith("/api/models/me/model/revision/"):
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": "me/model", "sha": COMMIT, "siblings": siblings, "private": False})
        elif self.path.startswith(f"/api/models/me/model/tree/{COMMIT}"):
            self.answer([{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files])
        elif where == "/me/model" and name in files:
            self.answer(files[name], ETag=f'"{sha1(files[name]).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *unused: Any) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    words = ["export", OLD / "lookahead.pt", folder, "--data", OLD / "data-bin", "--bpe", "text_characters"]
    assert main([str(word) for word in words]) == 0
    return folder


def surroundings(hub: Hub, folder: Path) -> Dict[str, str]:
    """Where the package looks, and what it keeps."""
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_mine", "HF_HUB_DISABLE_XET": "1"}


FETCH = """
from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.core.errors import UsageError
for model in {models!r}:
    try:
        print(LaMemoLanguageModel.from_pretrained(model).score("the value")["positional_scores"].tolist())
    except UsageError as error:
        print(error)
"""
LINE = "{} is no directory, and on the Hugging Face hub it cannot be had ("


def test_a_model_goes_there_and_back(hub: Hub, exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    around = surroundings(hub, tmp_path)
    (exported / "notes.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "lamemo_fairseq", "push", str(exported), "me/model", "--private"],
        env={**os.environ, **around, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "DEBUG" not in done.stderr
    assert done.stdout.splitlines()[-1] == f"{around['HF_ENDPOINT']}/me/model"
    assert b"private" in hub.created and hub.tokens == {"Bearer hf_mine"}
    (exported / "notes.txt").unlink()
    assert hub.files == {path.name: path.read_bytes() for path in exported.iterdir()}
    hub.files["model.pt"] = b"a pickle"
    models = ["me/model", str(exported), "me/other"]
    fetched, own, other = fresh(FETCH.format(models=models), tmp_path, **around).splitlines()
    assert fetched == own and fetched.startswith("[-")
    assert not list((tmp_path / "hf").rglob("model.pt"))
    assert other.startswith(LINE.format("me/other"))


@pytest.mark.parametrize(
    "words, line",
    [
        (["{model}", "mine"], "mine names no model on the hub: write OWNER/NAME"),
        (["{empty}", "me/model"], "{empty} has no config.json"),
        (["{damaged}", "me/model"], "{damaged}/dict.txt is damaged, or was changed"),
    ],
)
def test_mistakes(words: list, line: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = {"model": exported, "empty": tmp_path / "empty", "damaged": tmp_path / "damaged"}
    places["empty"].mkdir()
    places["damaged"].mkdir()
    for path in exported.iterdir():
        content = path.read_bytes()
        (places["damaged"] / path.name).write_bytes(content + b"\n" if path.name == "dict.txt" else content)
    assert main(["push", *(word.format(**places) for word in words)]) == 1
    assert capsys.readouterr().err.startswith(f"lamemo push: {line.format(**places)}")


@pytest.mark.slow  # an interpreter of its own, for a line that the test above has seen
def test_nobody_answers(exported: Path, tmp_path: Path) -> None:
    """A closed port: one line, for both ways."""
    pytest.importorskip("huggingface_hub")
    with Hub() as closed:
        around = surroundings(closed, tmp_path)
    push = f"from lamemo_fairseq.cli.main import main\nassert main(['push', {str(exported)!r}, 'me/model']) == 1"
    (line,) = fresh(FETCH.format(models=["me/model"]) + push, tmp_path, **around).splitlines()
    assert line.startswith(LINE.format("me/model"))


def test_without_the_package(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="no directory, and to look .* is not installed: pip install huggingface-hub"):
        local_directory("me/model")
    with pytest.raises(UsageError, match="pushing needs a package that is not installed: pip install huggingface-hub"):
        push(str(exported), "me/model")
    assert local_directory(str(exported)) == str(exported)
    assert local_directory("nowhere") == "nowhere"
    with pytest.raises(UsageError, match="revision v1 is one of a model on the hub"):
        local_directory(str(exported), "v1")
