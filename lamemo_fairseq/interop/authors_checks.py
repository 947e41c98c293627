"""Checks of a checkpoint of the authors' program, each an error of one line."""

import math
from typing import Any, Dict, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..core.errors import UsageError
from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder

#: least value of each size in their ``model_config``
SIZES = {
    **{"n_layer": 1, "n_head": 1, "d_model": 1, "d_head": 1, "d_inner": 1, "tgt_len": 1},
    **{"mem_len": 0, "attn_type": 0},
}
RATES = ("dropout", "dropatt")


def check_config(config: Any) -> None:
    """Raises ``UsageError`` where ``model_config`` lacks a value or holds one that no model can have."""
    if not isinstance(config, dict):
        raise UsageError(f"model_config of the checkpoint is a {type(config).__name__}, not a dictionary")
    for name in (*SIZES, *RATES):
        if name not in config:
            raise UsageError(f"model_config of the checkpoint lacks {name}: save all of the model's arguments in it")
    for name, least in SIZES.items():
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(
                f"{name} {value!r} of the checkpoint is no size: it must be a whole number from {least} on"
            )
    for name in RATES:
        value = config[name]
        if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value < 1:
            raise UsageError(f"{name} {value!r} of the checkpoint is no rate: it must be from 0 to below 1")


def check_state(state: Any) -> None:
    """Raises ``UsageError`` where ``model_state`` is no dictionary of tensors."""
    if not isinstance(state, dict):
        raise UsageError(f"model_state of the checkpoint is a {type(state).__name__}, not a dictionary of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(f"{name!r} in model_state of the checkpoint is a {type(value).__name__}, not a tensor")


def check_shape(name: str, tensor: Tensor, shape: Tuple[int, ...]) -> None:
    """Raises ``UsageError`` where a tensor of theirs has another shape than the configuration says."""
    if tuple(tensor.shape) != shape:
        raise UsageError(f"{name} of the checkpoint has shape {tuple(tensor.shape)}, but model_config says {shape}")


def check_weights(weights: Dict[str, Tensor], flags: Dict[str, Any], dictionary: Dictionary, tokens: int) -> None:
    """Raises ``UsageError`` where converted weights are not those of the model that ``flags`` describe."""
    cfg = LaMemoConfig(**flags)
    cfg.check()
    with torch.device("meta"):
        wanted = {f"decoder.{k}": v for k, v in LaMemoDecoder(cfg, dictionary, tokens).state_dict().items()}
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights:
            raise UsageError(f"model_state of the checkpoint lacks what becomes {name} here: is it complete?")
        if name not in wanted:
            raise UsageError(f"model_state of the checkpoint holds {name}, which its model_config has no place for")
        check_shape(name, weights[name], tuple(wanted[name].shape))
