"""The authors' checkpoints and recorded numbers (golden/README.md) in the reference's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from reference import ReferenceConfig
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"

# Their attn_type -> memory, encoding, look-ahead. Not here: 1, which
# the reference does not cover, and 2, whose positions count down, N-1 to 0, where ours count up.
VARIANTS: dict[int, tuple[Any, Any, Any]] = {
    0: ("recurrence", "transformer-xl", "incremental"),
    3: ("lookahead", "disentangled", "incremental"),
    31: ("lookahead", "transformer-xl", "incremental"),
    32: ("lookahead", "disentangled-v2", "incremental"),
    33: ("lookahead", "disentangled", "full"),
}

# Their name of a weight -> ours; both without "layers.N.", which is the same.
NAMES = {
    "word_emb.emb_layers.0.weight": "embed",
    "crit.out_layers.0.bias": "out_bias",
    "r_w_bias": "u",
    "r_w_bias_future": "u_right",
    "r_r_bias": "w_left",
    "r_r_bias_future": "w_right",
    "dec_attn.q_net.weight": "q",
    "dec_attn.r_net.weight": "r",
    "dec_attn.o_net.weight": "o",
    "dec_attn.layer_norm.weight": "norm1.weight",
    "dec_attn.layer_norm.bias": "norm1.bias",
    "pos_ff.CoreNet.0.weight": "ffn1.weight",
    "pos_ff.CoreNet.0.bias": "ffn1.bias",
    "pos_ff.CoreNet.3.weight": "ffn2.weight",
    "pos_ff.CoreNet.3.bias": "ffn2.bias",
    "pos_ff.layer_norm.weight": "norm2.weight",
    "pos_ff.layer_norm.bias": "norm2.bias",
}

# One weight of theirs is several of ours, stacked.
STACKED = {"dec_attn.qkv_net.weight": "qkv", "dec_attn.kv_net.weight": "kv"}

# No weights of their own: the embedding again, and buffers.
UNREAD = re.compile(r"crit\.out_layers\.0\.weight|pos_emb\.inv_freq|.*_logits_constant")


def config_from_authors(model_config: Mapping[str, Any]) -> ReferenceConfig:
    """Their constructor's arguments -> ours."""
    memory, encoding, look_ahead = VARIANTS[model_config["attn_type"]]
    return ReferenceConfig(
        vocab_size=model_config["n_token"],
        layers=model_config["n_layer"],
        heads=model_config["n_head"],
        head_dim=model_config["d_head"],
        model_dim=model_config["d_model"],
        ffn_dim=model_config["d_inner"],
        mem_len=model_config["mem_len"],
        memory=memory,
        encoding=encoding,
        look_ahead=look_ahead,
        clamp_len=model_config["clamp_len"],
        same_length=model_config["same_length"],
        pre_norm=model_config["pre_lnorm"],
    )


def weights_from_authors(model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict, or gradients under its names, -> ours in float64. Token ids stay theirs."""
    weights: dict[str, Tensor] = {}
    for theirs, tensor in model_state.items():
        if UNREAD.fullmatch(theirs):
            continue
        parsed = re.fullmatch(r"(layers\.\d+\.)?(.*)", theirs)
        assert parsed is not None  # the second part is any
        layer, name = parsed.groups(default="")
        if name in STACKED:
            ours = STACKED[name]
            parts = tensor.double().chunk(len(ours))  # each [H*d,D]
            weights |= {layer + one: part for one, part in zip(ours, parts)}
        else:
            weights[layer + NAMES[name]] = tensor.double()
    return weights


class GoldenCase(NamedTuple):
    """One recorded case: B streams fed in S segments of `segment_length` tokens."""

    cfg: ReferenceConfig
    weights: dict[str, Tensor]
    segment_length: int
    tokens: Tensor  # [B,S*segment_length+1]
    nll: Tensor  # [B,S*segment_length]
    grads: dict[str, Tensor]  # of nll.mean(), under the names of weights

    @property
    def lengths(self) -> list[int]:
        """The segments, as stream_nll takes them."""
        return [self.segment_length] * (self.nll.shape[1] // self.segment_length)


def golden_names() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.npz"))


def load_golden(name: str) -> GoldenCase:
    checkpoint = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        recorded = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    grads = {key.removeprefix("grad."): g for key, g in recorded.items() if key.startswith("grad.")}
    return GoldenCase(
        cfg=config_from_authors(checkpoint["model_config"]),
        weights=weights_from_authors(checkpoint["model_state"]),
        segment_length=checkpoint["model_config"]["tgt_len"],
        tokens=recorded["tokens"],
        nll=recorded["nll"],
        grads=weights_from_authors(grads),
    )
