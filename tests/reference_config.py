"""Sizes and choices of the slow model in ``reference.py``. Imports neither the package nor fairseq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Weights = Mapping[str, Tensor]  # names and shapes: reference_weights.py
Encoding = Literal["disentangled", "disentangled-v2", "transformer-xl", "absolute"]


@dataclass(frozen=True)
class ReferenceConfig:
    """Sizes and choices of one model. A clamp_len of 0 or less clamps nothing."""

    vocab_size: int
    layers: int
    heads: int
    head_dim: int
    model_dim: int
    ffn_dim: int
    mem_len: int
    memory: Literal["lookahead", "recurrence", "none"] = "lookahead"
    encoding: Encoding = "disentangled"
    look_ahead: Literal["incremental", "full", "none"] = "incremental"
    detach_memory: bool = False
    clamp_len: int = -1
    same_length: bool = False
    pre_norm: bool = False

    def __post_init__(self) -> None:
        if self.encoding == "absolute" and self.memory != "none":
            raise ValueError("absolute positions start anew in every segment: use memory='none'")
        if self.same_length and self.mem_len < 1:
            raise ValueError("same_length with mem_len 0 leaves a token no key, not even itself")

    @property
    def capacity(self) -> int:
        """Most tokens the memory ever holds."""
        return 0 if self.memory == "none" else self.mem_len
