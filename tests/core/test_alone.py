"""The core without fairseq, hydra and omegaconf; and with fairseq, registered once, whichever way the package comes."""

import os
import shutil
from pathlib import Path

import pytest
from commands import ROOT
from interpreters import BLOCKED, fresh

NOTHING_HIDDEN = """
import torch
from lamemo_fairseq.core import KINDS, MemoryTransformer, ModelConfig

def held(model):  # all that modules hold beside weights: by name and value, tensors by their content
    return {
        (path, name): value.clone() if isinstance(value, torch.Tensor) else repr(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_modules", "training")
    }

for kind in KINDS:
    cfg = ModelConfig(11, memory=kind, mem_len=4, layers=2, dim=8, heads=2, ffn_dim=8, segment_length=3)
    model = MemoryTransformer(cfg)
    before, states, tokens = held(model), [None], torch.randint(11, (2, 9))
    model.train()
    for piece in tokens.split(3, dim=1):
        features, state, aux = model(piece, states[-1])
        states.append(state)
        assert set(aux.losses) == set(model.memory.auxiliary_loss_names)
        (features.sum() + sum(aux.losses.values())).backward()
    model.eval()
    segment = model.new_segment(2)
    for token in tokens.split(1, dim=1):
        model.decode_step(token, segment)
    after = held(model)
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key
"""
REGISTERED = """
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
assert "lamemo_lm" in MODEL_REGISTRY and "memory_language_modeling" in TASK_REGISTRY
assert MODEL_REGISTRY["lamemo_lm"] is lamemo_fairseq.LaMemoLanguageModel
assert sum(name.endswith("plugin.model") for name in sys.modules) == 1
"""
BY_USER_DIR = """
import sys
from argparse import Namespace
from fairseq import utils
{before}
utils.import_user_module(Namespace(user_dir={path!r}))
utils.import_user_module(Namespace(user_dir={path!r}))
import lamemo_fairseq
"""


def test_the_core_needs_torch_alone(tmp_path: Path) -> None:
    reads = """
import torch
import lamemo_fairseq
from lamemo_fairseq.core import KINDS, MemoryTransformer, ModelConfig
assert not hasattr(lamemo_fairseq, "LaMemoLanguageModel")
for kind in KINDS:
    model = MemoryTransformer(ModelConfig(11, memory=kind, mem_len=4, layers=2, dim=8, heads=2, ffn_dim=8)).eval()
    tokens, state = torch.randint(11, (2, 9)), None
    for piece in tokens.split(3, dim=1):
        features, state, aux = model(piece, state)
        assert features.shape == (2, 3, 8) and model.log_probs(features).shape == (2, 3, 11)
    model.decode_step(tokens, model.new_segment(2))
loaded = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
assert not loaded & {"fairseq", "hydra", "omegaconf"}
"""
    fresh(BLOCKED + reads, tmp_path)


def test_nothing_is_hidden_on_modules(tmp_path: Path) -> None:
    """Segments in training and tokens decoded: what a module holds beside its weights is as it was before."""
    fresh(BLOCKED + NOTHING_HIDDEN, tmp_path)


@pytest.mark.parametrize("way", ["relative", "absolute", "installed", "import", "import, then user-dir"])
def test_it_registers_once(way: str, tmp_path: Path) -> None:
    if way == "import":
        fresh("import sys\nimport lamemo_fairseq" + REGISTERED, tmp_path)
        return
    path, elsewhere = str(ROOT / "lamemo_fairseq"), ROOT
    before = "import lamemo_fairseq" if way.startswith("import") else ""
    if way == "relative":
        path = os.path.relpath(path, tmp_path)
    if way == "installed":  # a folder of packages that are there, as site-packages
        elsewhere = tmp_path / "site"
        shutil.copytree(ROOT / "lamemo_fairseq", elsewhere / "lamemo_fairseq", ignore=shutil.ignore_patterns("__pyc*"))
        path = str(elsewhere / "lamemo_fairseq")
    fresh(BY_USER_DIR.format(path=path, before=before) + REGISTERED, tmp_path, elsewhere)
