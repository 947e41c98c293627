"""The core without fairseq, hydra and omegaconf; and with fairseq, registered once, whichever way the package comes."""

import os
import shutil
from pathlib import Path

import pytest
from commands import ROOT
from interpreters import BLOCKED, fresh

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
