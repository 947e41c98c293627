"""An exported directory as a checkpoint of fairseq: what its commands get for ``--path DIR/model.safetensors``."""

import os
import tempfile
from typing import Any, Callable, Dict

import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch import Tensor

from ..core.errors import UsageError
from ..core.pretrained import CONFIG, WEIGHTS, check_files, load_weights, read_config

#: what fairseq's model puts before the core's names of weights
PREFIX = "decoder."


def weights_file(path: str) -> str:
    """The weights of an exported directory, where ``path`` is one; else ``path``."""
    inside = os.path.join(path, WEIGHTS)
    return inside if os.path.isfile(inside) else path


def is_exported(path: str) -> bool:
    """Whether a file is the weights of an exported directory."""
    return path.endswith(".safetensors")


def load_exported(path: str, load: Callable[[str], Dict[str, Any]]) -> Dict[str, Any]:
    """The checkpoint that ``path`` stands for; ``load`` is fairseq's reader, which applies overrides and upgrades."""
    directory = os.path.dirname(os.path.abspath(path))
    config = read_config(directory)
    check_files(directory, config)
    if os.path.basename(path) != WEIGHTS:
        raise UsageError(f"{path} is not named {WEIGHTS}: name a directory that lamemo export wrote")
    given = config.get("fairseq")
    if not isinstance(given, dict) or not {"model", "task", "criterion", "dictionary"} <= given.keys():
        raise UsageError(f"{os.path.join(directory, CONFIG)} lacks what fairseq needs: copy the directory anew")
    weights = {PREFIX + name: tensor for name, tensor in load_weights(directory, config).state_dict().items()}
    state = weights_checkpoint(full_config(given, directory), {}, {"dictionary": given["dictionary"]})
    with tempfile.TemporaryDirectory() as scratch:
        empty = os.path.join(scratch, "checkpoint.pt")
        torch.save(state, empty)
        return {**load(empty), "model": weights}


def full_config(given: Dict[str, Any], directory: str) -> Dict[str, Any]:
    """Fairseq's configuration: its defaults, with the exported model, task and criterion; data are the directory."""
    groups = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=False, enum_to_str=True)
    assert isinstance(groups, dict)
    groups.update({name: given[name] for name in ("model", "task", "criterion")})
    groups["model"] = {**groups["model"], "_name": "lamemo_lm"}
    groups["task"] = {**groups["task"], "_name": "memory_language_modeling", "data": directory}
    full = OmegaConf.to_container(OmegaConf.create(groups), resolve=True)
    assert isinstance(full, dict)
    return {str(name): group for name, group in full.items()}


def weights_checkpoint(cfg: Dict[Any, Any], weights: Dict[str, Tensor], task_state: Dict[str, Any]) -> Dict[str, Any]:
    """A checkpoint of fairseq that holds weights, and neither optimizer nor memory."""
    return {
        "args": None,
        "cfg": cfg,
        "model": weights,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": 0,
            }
        ],
        "task_state": task_state,
        "extra_state": {"train_iterator": {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": False}},
    }
