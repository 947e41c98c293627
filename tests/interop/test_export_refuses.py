"""``lamemo export`` and what reads its directories: what is not whole is refused; a full disk leaves nothing."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from commands import ROOT, context, start_server
from test_export import lamemo

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli.main import main
from lamemo_fairseq.core import load_pretrained
from lamemo_fairseq.core.errors import UsageError

OLD = ROOT / "tests" / "checkpoints"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of an old checkpoint, named as it."""
    folder = tmp_path_factory.mktemp("exported")
    flags = ("--data", OLD / "data-bin", "--bpe", "text_characters")
    assert lamemo("export", OLD / "lookahead.pt", folder / "lookahead", *flags) == 0
    return folder


def damage(folder: Path, what: str, file: str) -> None:
    """Removes a file, or changes it."""
    path = folder / file
    if what == "removed":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "dict.txt"])
@pytest.mark.parametrize("what", ["removed", "cut", "flipped"])
def test_what_is_not_whole_is_refused(exported: Path, what: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported / "lookahead", folder)
    damage(folder, what, file)
    for load in (load_pretrained, LaMemoLanguageModel.from_pretrained):
        with pytest.raises(UsageError) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"format": None}, "has format None"),
        ({"model": {"memory": "mine"}}, "has memory 'mine', which is not known"),
        ({"model": {"width": 3}}, "has width, which this version does not know"),
        ({"model": {"options": None}}, "has None where the fields of LookAheadOptions are due"),
        ({"model": {"dim": 16}}, "model.safetensors is not of the model in config.json"),
        ({"sha256": {"../x": "0"}}, "names the file ../x, outside of the directory"),
        ({"text": {"user_dir": "/tmp"}}, "has no options of text, or more"),
        ({"text": {"bpe_codes": "/etc/passwd"}}, "has bpe_codes '/etc/passwd'"),
        ({"fairseq": None}, "lacks what fairseq needs"),
        ({"sha256": {"model.safetensors": "@dict.txt"}}, "model.safetensors is not of the model in config.json"),
    ],
)
def test_a_configuration_that_is_none(exported: Path, change: Dict[str, Any], line: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported / "lookahead", folder)
    config = json.loads((folder / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    if config["sha256"]["model.safetensors"] == "@dict.txt":  # no weights at all, under a hash that is theirs
        shutil.copy(folder / "dict.txt", folder / "model.safetensors")
        config["sha256"]["model.safetensors"] = config["sha256"]["dict.txt"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError) as caught:
        LaMemoLanguageModel.from_pretrained(str(folder))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def with_change(path: Path, change: Any) -> Path:
    """An old checkpoint, changed."""
    state = torch.load(OLD / "lookahead.pt", weights_only=True)
    change(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "words, line",
    [
        (["{nowhere}", "{new}"], "CHECKPOINT {nowhere} is no file"),
        (["{old}", "{full}", "--data", "{data}"], "DIR {full} is not empty"),
        (["{old}", "{infinite}", "--data", "{data}"], "DIR {infinite} exists and is no directory"),
        (["{old}", "{infinite}/new", "--data", "{data}"], "DIR {infinite}/new cannot be written (Not a directory)"),
        (["{infinite}", "{new}", "--data", "{data}"], "embed_tokens.weight of the weights has values that are not"),
        (["{other}", "{new}", "--data", "{data}"], "CHECKPOINT {other} holds transformer_lm"),
        (["{dict}", "{new}", "--data", "{data}"], "{dict} is truncated or damaged"),
        (["{old}", "{new}", "--data", "{full}"], "the checkpoint's dictionary (64 types"),
        (["{old}", "{new}", "--data", "{empty}"], "--data {empty} has no dict.txt"),
        (["{moved}", "{new}"], "--data is missing"),
        (["{old}", "{new}", "--data", "{data}", "--bpe", "mine"], "--bpe mine is not known"),
        (["{old}", "{new}", "--data", "{data}", "--bpe-codes", "{nowhere}"], "--bpe-codes {nowhere} is no file"),
        (["{old}", "{new}", "--data", "{data}", "--score", "bpc"], "--score bpc is no NAME=NUMBER"),
        (["{old}", "{new}", "--data", "{data}", "--score", "bpc=nan"], "--score bpc=nan is no NAME=NUMBER"),
    ],
)
def test_mistakes(words: List[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = {name: tmp_path / name for name in ("nowhere", "new", "full", "empty", "infinite", "other", "moved")}
    for name in ("full", "empty"):
        places[name].mkdir()
    (tmp_path / "full" / "dict.txt").write_text("a 1\n")
    places.update(old=OLD / "lookahead.pt", data=OLD / "data-bin", dict=tmp_path / "full" / "dict.txt")
    with_change(tmp_path / "infinite", lambda state: state["model"]["decoder.embed_tokens.weight"].fill_(float("inf")))
    with_change(tmp_path / "moved", lambda state: state["cfg"]["task"].update(data="/nowhere"))
    with_change(tmp_path / "other", lambda state: state["cfg"].update(model={"_name": "transformer_lm"}))
    assert lamemo("export", *(word.format(**places) for word in words)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"lamemo export: {line.format(**places)}"), said
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def export_on_a_small_disk(words: List[str]) -> None:
    """In a fork: files of at most two thousand bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    raise SystemExit(main(words))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    start_server()
    words = ["export", str(OLD / "lookahead.pt"), str(tmp_path / "model"), "--data", str(OLD / "data-bin")]
    process = context.Process(target=export_on_a_small_disk, args=(words,))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert not list(tmp_path.iterdir())
