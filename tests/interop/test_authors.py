"""Checkpoints of the authors' program: what is damaged, wrong or hostile ends in one line, and nothing runs."""

import random
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from reference_authors import GOLDEN, golden_names

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.interop.authors import import_checkpoint


def theirs() -> Dict[str, Any]:
    return torch.load(GOLDEN / "lamemo.pt", weights_only=True)


def refused(checkpoint: Any, tmp_path: Path) -> str:
    """The one line with which an import ends; nothing is written."""
    torch.save(checkpoint, tmp_path / "theirs.pt")
    return refused_file(tmp_path / "theirs.pt", tmp_path / "out")


def refused_file(path: Path, out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        import_checkpoint(str(path), str(out))
    assert "\n" not in str(caught.value) and not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", golden_names())
def test_flipped_bytes(name: str, tmp_path: Path) -> None:
    """With seeds: an import of a file with other bytes stops, or they meant nothing and the weights are the same."""
    whole = (GOLDEN / f"{name}.pt").read_bytes()
    wanted = torch.load(import_checkpoint(str(GOLDEN / f"{name}.pt"), str(tmp_path / "whole")), weights_only=True)
    draw = random.Random(name)
    stopped = 0
    for number in range(10):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path, out = tmp_path / f"{number}.pt", tmp_path / f"out{number}"
        path.write_bytes(damaged)
        try:
            found = torch.load(import_checkpoint(str(path), str(out)), weights_only=True)["model"]
        except UsageError as error:
            assert "\n" not in str(error) and not out.exists()
            stopped += 1
        else:
            assert all(torch.equal(found[key], value) for key, value in wanted["model"].items()), number
        path.write_bytes(whole[: draw.randrange(len(whole))])
        refused_file(path, tmp_path / "cut")
    assert stopped >= 5, stopped


@pytest.mark.parametrize("name", ["n_layer", "n_head", "d_head", "d_model", "d_inner", "tgt_len", "dropout", "mem_len"])
def test_every_size_is_checked(name: str, tmp_path: Path) -> None:
    for value in (-1, "2", None, float("nan"), *([0] if name not in ("dropout", "mem_len") else [])):
        checkpoint = theirs()
        checkpoint["model_config"][name] = value
        assert name in refused(checkpoint, tmp_path)
    checkpoint = theirs()
    del checkpoint["model_config"][name]
    assert f"lacks {name}" in refused(checkpoint, tmp_path)


@pytest.mark.parametrize("kind", golden_names())
def test_every_tensor_is_checked(kind: str, tmp_path: Path) -> None:
    """Each one missing or of another shape: one line; those that are computed anew may be missing."""
    whole = torch.load(GOLDEN / f"{kind}.pt", weights_only=True)
    for name, tensor in whole["model_state"].items():
        if name in ("pos_emb.inv_freq", "crit.out_layers.0.weight") or "logits_constant" in name:
            continue
        for other in (None, torch.cat([tensor, tensor])):
            state = {key: value for key, value in whole["model_state"].items() if key != name}
            state.update({} if other is None else {name: other})
            refused({**whole, "model_state": state}, tmp_path)


def test_what_is_no_tensor(tmp_path: Path) -> None:
    checkpoint = theirs()
    checkpoint["model_state"]["r_w_bias"] = "text"
    assert "'r_w_bias' in model_state of the checkpoint is a str, not a tensor" in refused(checkpoint, tmp_path)


@pytest.mark.parametrize("name, value", [("cutoffs", [10]), ("div_val", 4)])
def test_adaptive_softmax_says_why_not(name: str, value: Any, tmp_path: Path) -> None:
    checkpoint = theirs()
    checkpoint["model_config"][name] = value
    said = refused(checkpoint, tmp_path)
    assert said.startswith(
        f"{name} {value} of the checkpoint has no equal here (its adaptive softmax has biases, which"
    )


# In a process of its own, so that the classes are not here.
WRITE = """
import argparse, collections, sys, torch, types
source, target, hostile = sys.argv[1:]
module = types.ModuleType("utils.vocabulary")
class Vocab: pass
Vocab.__module__ = module.__name__
module.Vocab = Vocab
sys.modules["utils"] = types.ModuleType("utils"); sys.modules[module.__name__] = module
class Hostile:
    def __reduce__(self):
        return eval, (f"open({hostile!r}, 'w').write('ran')",)
theirs = torch.load(source, weights_only=True)
vocab = Vocab()
vocab.idx2sym = theirs["vocab"]
vocab.sym2idx = collections.OrderedDict((s, i) for i, s in enumerate(theirs["vocab"]))
vocab.counter = collections.Counter(theirs["vocab"])
theirs.update(vocab=vocab, train_args=argparse.Namespace(lr=0.1), model_config=dict(theirs["model_config"]))
if hostile:
    theirs["train_args"].extra = Hostile()
for legacy in (True, False):
    torch.save(theirs, target + (".old" if legacy else ""), _use_new_zipfile_serialization=not legacy)
"""


def write(target: Path, hostile: str) -> None:
    command = [sys.executable, "-c", WRITE, str(GOLDEN / "lamemo.pt"), str(target), hostile]
    subprocess.run(command, check=True, cwd=target.parent)


def test_as_their_trainer_writes_it(tmp_path: Path) -> None:
    write(tmp_path / "theirs.pt", "")
    plain = torch.load(import_checkpoint(str(GOLDEN / "lamemo.pt"), str(tmp_path / "plain")), weights_only=True)
    for name in ("theirs.pt", "theirs.pt.old"):
        found = torch.load(import_checkpoint(str(tmp_path / name), str(tmp_path / f"{name}.out")), weights_only=True)
        assert found["model"].keys() == plain["model"].keys()
        assert all(torch.equal(found["model"][key], plain["model"][key]) for key in plain["model"])


def test_a_hostile_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "theirs.pt", str(tmp_path / "ran"))
    for name in ("theirs.pt", "theirs.pt.old"):
        assert re.search("names (builtins|__builtin__).eval,", refused_file(tmp_path / name, tmp_path / "out"))
    assert not (tmp_path / "ran").exists()
    vocabulary = types.ModuleType("utils.vocabulary")
    vocabulary.Vocab = type("Vocab", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", types.ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "utils.vocabulary", vocabulary)
    torch.load(tmp_path / "theirs.pt", weights_only=False)  # it is hostile indeed
    assert (tmp_path / "ran").exists()
