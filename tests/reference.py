"""LaMemo, slowly: the whole model as a float64 program that can be checked against the page by eye.

One query token at a time; no relative shift, no mask beyond "which keys", no fast path, no dropout.
The package is held to this file, and this file to the authors' recorded numbers (tests/golden). It
imports neither the package nor fairseq. The method: arXiv 2204.07341,
and where that leaves something open, its authors' program.

Letters: B streams, H heads, d head width, D model width, V vocabulary, M memory length now held,
N segment length, A tokens that entered the memory last, J keys of one query, T tokens at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from reference_config import ReferenceConfig, Weights
from torch import Tensor


@dataclass
class ReferenceState:
    """What one segment leaves to the next, all detached.

    inputs     the layers' inputs at the memory tokens, each [B,M,D]. Look-ahead keeps layer 0's
               alone, the scaled embeddings: it changes all layers above, which are recomputed.
    outputs    look-ahead only, unless it is "none": per layer the attention outputs of the memory tokens [B,H,M,d] ...
    lse        ... and the log-sum-exp of all scores behind them [B,H,M]
    documents  the memory tokens' documents [B,M]
    entered    A, how many tokens entered at the last update
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    lse: list[Tensor]
    documents: Tensor
    entered: int

    @classmethod
    def empty(cls, cfg: ReferenceConfig, B: int) -> ReferenceState:
        """The state before the first segment: M = 0, A = 0."""
        ahead = cfg.memory == "lookahead"
        looks = ahead and cfg.look_ahead != "none"

        def nothing(layers: int, *shape: int) -> list[Tensor]:
            return [torch.zeros(shape, dtype=torch.float64) for _ in range(layers)]

        return cls(
            inputs=nothing(1 if ahead else cfg.layers, B, 0, cfg.model_dim),
            outputs=nothing(cfg.layers if looks else 0, B, cfg.heads, 0, cfg.head_dim),
            lse=nothing(cfg.layers if looks else 0, B, cfg.heads, 0),
            documents=torch.zeros(B, 0, dtype=torch.long),
            entered=0,
        )


# ---- Parts of a layer -------------------------------------------------------------------------


def sinusoid(positions: Tensor, width: int) -> Tensor:
    """Transformer-XL's table s(t), sines then cosines: [J] -> [J,width]. t may be negative."""
    frequency = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = positions[:, None] * frequency  # [J,width/2]
    return torch.cat([angle.sin(), angle.cos()], -1)


def embed(cfg: ReferenceConfig, weights: Weights, tokens: Tensor) -> Tensor:
    """The input of layer 0: tokens [B,N] -> [B,N,D]."""
    x = weights["embed"][tokens] * math.sqrt(cfg.model_dim)
    if cfg.encoding == "absolute":
        x = x + sinusoid(torch.arange(tokens.shape[1]), cfg.model_dim)
    return x


def layer_weights(weights: Weights, layer: int) -> dict[str, Tensor]:
    """One layer's weights under their short names, along with the vectors all layers share."""
    prefix, shared = f"layers.{layer}.", ("u", "u_right", "w_left", "w_right")
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix) or name in shared
    }


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


class Rows(NamedTuple):
    """Projected tokens of one layer, at positions 0..T-1: q, k, v [B,H,T,d] and documents [B,T]."""

    q: Tensor
    k: Tensor
    v: Tensor
    documents: Tensor


def project(cfg: ReferenceConfig, w: Weights, h: Tensor, documents: Tensor) -> Rows:
    """Queries, keys and values of layer inputs h [B,T,D]."""
    h = norm(w, "norm1", h) if cfg.pre_norm else h
    q, k, v = (
        F.linear(h, w[name]).unflatten(-1, (cfg.heads, cfg.head_dim)).transpose(1, 2)  # [B,H,T,d]
        for name in "qkv"
    )
    return Rows(q, k, v, documents)


def finish(cfg: ReferenceConfig, w: Weights, h: Tensor, y: Tensor) -> Tensor:
    """Layer inputs h [B,T,D], attention outputs y [B,H,T,d] -> outputs [B,T,D]."""

    def feed_forward(a: Tensor) -> Tensor:
        hidden = F.linear(a, w["ffn1.weight"], w["ffn1.bias"]).relu()  # [B,T,ffn_dim]
        return F.linear(hidden, w["ffn2.weight"], w["ffn2.bias"])

    a = h + F.linear(y.transpose(1, 2).flatten(2), w["o"])  # [B,T,H*d] -> [B,T,D]
    if cfg.pre_norm:
        return a + feed_forward(norm(w, "norm2", a))
    a = norm(w, "norm1", a)
    return norm(w, "norm2", a + feed_forward(a))


# ---- Attention --------------------------------------------------------------------------------


def score(
    cfg: ReferenceConfig,
    w: Weights,
    rows: Rows,
    i: int,
    keys: Tensor,
    *,
    ahead: bool,
) -> Tensor:
    """Scores of the query at position i with the keys at positions `keys` [J]: [B,H,J].

    `ahead` says which attention this is, a) or b). A key of another document scores -inf.
    """
    q, k = rows.q[:, :, i], rows.k[:, :, keys]  # [B,H,d], [B,H,J,d]
    if cfg.encoding == "absolute":
        scores = torch.einsum("bhd,bhjd->bhj", q, k)
    else:
        content, position, distance = w["u"], w["w_left"], i - keys
        if ahead and cfg.encoding != "transformer-xl":  # which goes on at negative distances
            position, distance = w["w_right"], distance.abs()
        if ahead and cfg.encoding == "disentangled-v2":
            content = w["u_right"]
        if cfg.clamp_len > 0:  # a negative distance is never above it
            distance = distance.clamp(max=cfg.clamp_len)
        r = F.linear(sinusoid(distance, cfg.model_dim), w["r"])  # [J,H*d]
        r = r.unflatten(-1, (cfg.heads, cfg.head_dim))  # [J,H,d]
        scores = torch.einsum("bhd,bhjd->bhj", q + content, k)
        scores = scores + torch.einsum("bhd,jhd->bhj", q + position, r)
    hidden = rows.documents[:, keys] != rows.documents[:, i, None]  # [B,J]
    return (scores / math.sqrt(cfg.head_dim)).masked_fill(hidden[:, None], -math.inf)


def average(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of scores [B,H,J] over values [B,H,J,d]: output [B,H,d] and log-sum-exp [B,H]."""
    return torch.einsum("bhj,bhjd->bhd", scores.softmax(-1), values), scores.logsumexp(-1)


def merge(o_old: Tensor, lse_old: Tensor, scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """An old output [B,H,d] and log-sum-exp [B,H] brought up to date by new keys.

    One softmax, in which all that was seen before is one key more: its score is lse_old, its value
    o_old. Where no new key is visible the old output remains.
    """
    scores = torch.cat([lse_old[..., None], scores], -1)
    return average(scores, torch.cat([o_old[:, :, None], values], 2))


def causal_keys(cfg: ReferenceConfig, i: int) -> Tensor:
    """What the current token at position i sees: itself and all to its left, or mem_len keys."""
    return torch.arange(max(0, i - cfg.mem_len + 1) if cfg.same_length else 0, i + 1)


def look_ahead_keys(cfg: ReferenceConfig, i: int, M: int, A: int) -> Tensor:
    """What the memory token at position i sees on its right: up to M, the first current token.

    When the last A tokens of the memory were current, the first of them sat at M-A. The older
    memory tokens have looked ahead up to there; those A have seen no further than themselves.
    "full" ignores what was seen: every memory token attends to the last A keys, on both its sides.
    "none" has no such attention: see `segment`.
    """
    seen = M - A if cfg.look_ahead == "full" else max(i, M - A)
    return torch.arange(max(seen + 1, 1), M + 1)


# ---- The model --------------------------------------------------------------------------------


def segment(
    cfg: ReferenceConfig,
    weights: Weights,
    state: ReferenceState,
    tokens: Tensor,
    *,
    keep: int | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, ReferenceState]:
    """One segment: tokens [B,N] -> logits [B,N,V] of the tokens that follow, and the next state.

    keep: only the first `keep` tokens enter the memory (context windows); by default all N.
    documents: ids [B,N]; a token sees keys of its own document only. By default all are 0.
    """
    M, N, A = state.documents.shape[1], tokens.shape[1], state.entered
    keep = N if keep is None else keep
    ahead = cfg.memory == "lookahead"
    looks = ahead and cfg.look_ahead != "none"

    def remember(rows: Tensor, dim: int) -> Tensor:
        """Of M+N rows along dim those that stay: the last of [memory; first `keep` tokens]."""
        length = min(cfg.capacity, M + keep)
        return rows.narrow(dim, M + keep - length, length).detach()

    documents = torch.zeros_like(tokens) if documents is None else documents
    documents = torch.cat([state.documents, documents], 1)  # [B,M+N]
    new = ReferenceState([], [], [], remember(documents, 1), entered=keep)

    m, x = state.inputs[0], embed(cfg, weights, tokens)  # [B,M,D], [B,N,D]
    for layer in range(cfg.layers):
        w = layer_weights(weights, layer)
        if not ahead:
            m = state.inputs[layer]
        # Detached, no gradient reaches the layers below, as where the memory is not recomputed.
        m = m.detach() if cfg.detach_memory else m
        h = torch.cat([m, x], 1)
        rows = project(cfg, w, h, documents)
        attended = []
        for i in range(M) if looks else ():
            keys = look_ahead_keys(cfg, i, M, A)
            scores = score(cfg, w, rows, i, keys, ahead=True)
            old = state.outputs[layer][:, :, i], state.lse[layer][:, :, i]
            attended.append(merge(*old, scores, rows.v[:, :, keys]))
        # With look_ahead "none" memory tokens attend to the memory on their left, as if they were current.
        for i in range(0 if ahead and not looks else M, M + N):
            keys = causal_keys(cfg, i)
            scores = score(cfg, w, rows, i, keys, ahead=False)
            attended.append(average(scores, rows.v[:, :, keys]))
        o, lse = (torch.stack(parts, 2) for parts in zip(*attended))
        if layer < len(state.inputs):
            new.inputs.append(remember(h, 1))
        if looks:
            new.outputs.append(remember(o, 2))
            new.lse.append(remember(lse, 2))
        if ahead:
            # m is the next layer's memory, refreshed. The last layer's is read by nobody.
            m, x = finish(cfg, w, h, o).split([M, N], 1)
        else:
            x = finish(cfg, w, x, o)
    return F.linear(x, weights["embed"], weights["out_bias"]), new


def stream_logits(
    cfg: ReferenceConfig,
    weights: Weights,
    tokens: Tensor,
    lengths: Iterable[int],
    *,
    context: int = 0,
    documents: Tensor | None = None,
) -> Tensor:
    """Logits [B,T,V] after each of tokens [B,T], read as segments of `lengths` new tokens (sum T).

    context: each segment is preceded by the last `context` tokens of the one before (all of it, if
    it was shorter). They are not scored again; what came before them has entered the memory.
    """
    state = ReferenceState.empty(cfg, len(tokens))
    start, scored, logits = 0, 0, []
    for length in lengths:
        span = slice(start, scored + length)
        keep = max(0, scored + length - start - context)
        ids = None if documents is None else documents[:, span]
        new, state = segment(cfg, weights, state, tokens[:, span], keep=keep, documents=ids)
        logits.append(new[:, scored - start :])
        start, scored = start + keep, scored + length
    return torch.cat(logits, 1)


def stream_nll(
    cfg: ReferenceConfig, weights: Weights, tokens: Tensor, lengths: Iterable[int], **options: Any
) -> Tensor:
    """Natural-log losses [B,T] of tokens [B,T+1] but the first; options as for stream_logits.

    Nothing back-propagates from one segment into the one before, so that the gradient of the sum
    over the stream is the sum of the segments' gradients: truncated back-propagation.
    """
    logits = stream_logits(cfg, weights, tokens[:, :-1], lengths, **options)
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
