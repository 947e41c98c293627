"""The reference's weights: names, shapes, and random ones for tests.

Letters: D model width.
"""

from __future__ import annotations

import torch
from reference import ReferenceConfig
from torch import Tensor


def weight_shapes(cfg: ReferenceConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights. Linear maps are (out, in), as F.linear takes them.

    `embed` is the output layer too. Of the vectors u (content) and w (position), shared by all
    layers, there are as many as the variant reads; u without a side serves both.
    """
    D, inner, vector = cfg.model_dim, cfg.heads * cfg.head_dim, (cfg.heads, cfg.head_dim)
    relative, ahead = cfg.encoding != "absolute", cfg.memory == "lookahead"
    ahead &= cfg.look_ahead != "none"
    shapes: dict[str, tuple[int, ...]] = {"embed": (cfg.vocab_size, D)}
    shapes["out_bias"] = (cfg.vocab_size,)
    if relative:
        shapes |= {"u": vector, "w_left": vector}
    if ahead and cfg.encoding != "transformer-xl":
        shapes["w_right"] = vector
    if ahead and cfg.encoding == "disentangled-v2":
        shapes["u_right"] = vector
    for layer in range(cfg.layers):
        own: dict[str, tuple[int, ...]] = {"q": (inner, D), "k": (inner, D), "v": (inner, D)}
        if relative:
            own["r"] = (inner, D)
        own["o"] = (D, inner)
        own |= {"norm1.weight": (D,), "norm1.bias": (D,)}
        own |= {"ffn1.weight": (cfg.ffn_dim, D), "ffn1.bias": (cfg.ffn_dim,)}
        own |= {"ffn2.weight": (D, cfg.ffn_dim), "ffn2.bias": (D,)}
        own |= {"norm2.weight": (D,), "norm2.bias": (D,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def random_weights(cfg: ReferenceConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights large enough that every term of the model shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(cfg).items():
        is_vector = len(shape) == 1 or name in ("u", "u_right", "w_left", "w_right")
        scale = 0.3 if is_vector else shape[-1] ** -0.5
        weights[name] = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights
