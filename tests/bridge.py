"""Between the reference and the package: the same model in both, for tests that compare them."""

from typing import Dict, Mapping

import torch
from fairseq.data import Dictionary
from reference import ReferenceConfig
from torch import Tensor

from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder

SHARED = {
    "embed": "embed_tokens.weight",
    "out_bias": "output_bias",
    "u": "biases.content",
    "w_left": "biases.position",
    "w_right": "biases.position_right",
    "u_right": "biases.content_right",
}
LAYER = {
    "q": "attention.q_proj.weight",
    "r": "attention.r_proj.weight",
    "o": "attention.out_proj.weight",
    "norm1": "attention_norm",
    "norm2": "feed_forward_norm",
    "ffn1": "feed_forward.fc1",
    "ffn2": "feed_forward.fc2",
}


def dictionary_of(size: int) -> Dictionary:
    """A dictionary of ``size`` symbols, fairseq's four among them."""
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    assert len(dictionary) == size
    return dictionary


def package_config(cfg: ReferenceConfig, **changes: object) -> LaMemoConfig:
    """The same model as flags of ours."""
    flags = {
        "memory_type": cfg.memory,
        "position_encoding": cfg.encoding,
        "look_ahead": cfg.look_ahead,
        "detach_memory": cfg.detach_memory,
        "mem_len": cfg.mem_len,
        "clamp_len": cfg.clamp_len,
        "same_length": cfg.same_length,
        "decoder_layers": cfg.layers,
        "decoder_embed_dim": cfg.model_dim,
        "decoder_ffn_embed_dim": cfg.ffn_dim,
        "decoder_attention_heads": cfg.heads,
        "decoder_head_dim": cfg.head_dim,
        "decoder_normalize_before": cfg.pre_norm,
        "dropout": 0.0,
    }
    config = LaMemoConfig(**{**flags, **changes})  # type: ignore[arg-type]
    config.check()
    return config


def package_weights(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The reference's weights (or gradients) under our names."""
    ours = {}
    for name, weight in weights.items():
        if name in SHARED:
            ours[SHARED[name]] = weight
            continue
        _, layer, part = name.split(".", 2)
        prefix = f"layers.{layer}."
        if part in ("k", "v"):  # ours are one projection
            pair = [weights[f"{prefix}{one}"] for one in ("k", "v")]
            ours[f"{prefix}attention.kv_proj.weight"] = torch.cat(pair)
            continue
        head, _, tail = part.partition(".")
        ours[prefix + LAYER[head] + (f".{tail}" if tail else "")] = weight
    return ours


def build(
    cfg: ReferenceConfig, weights: Mapping[str, Tensor], segment_length: int = 8, **changes: object
) -> LaMemoDecoder:
    """Our decoder with the reference's weights, in their type, in evaluation mode."""
    decoder = LaMemoDecoder(package_config(cfg, **changes), dictionary_of(cfg.vocab_size), segment_length)
    decoder = decoder.to(weights["embed"].dtype)
    decoder.load_state_dict(package_weights(weights))
    return decoder.eval()
