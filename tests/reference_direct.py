"""Invariant 6.2: the memory of a one-layer model as one direct attention, without any merge.

Letters: B streams, H heads, d head width, M memory length now held, N segment length, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from reference import ReferenceConfig, Weights, average, embed, layer_weights, project, score
from torch import Tensor


def direct_one_layer(
    cfg: ReferenceConfig,
    weights: Weights,
    tokens: Tensor,
    segments: Sequence[tuple[int, int]],
    *,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What the memory holds after the last segment, as one softmax per token over all it may see.

    A token may see its left context when it was current, the memory of that time included, and
    everything to its right up to the last segment's first token, if it was memory then.

    For one layer and incremental look-ahead. tokens [B,T] is the stream; segments are its (N, keep)
    pairs: the first N tokens are read, the first `keep` of them enter the memory, and the next
    segment begins behind these. Returns outputs [B,H,M,d] and log-sum-exps [B,H,M], which are
    ReferenceState.outputs[0] and .lse[0].
    """
    documents = torch.zeros_like(tokens) if documents is None else documents
    w = layer_weights(weights, 0)
    rows = project(cfg, w, embed(cfg, weights, tokens), documents)  # positions are the stream's own

    first_seen = []  # of each token that entered: the leftmost key it saw when it was current
    start = last_start = 0
    for _, keep in segments:
        memory_start = max(0, start - cfg.mem_len)
        for i in range(start, start + keep):
            window_start = i - cfg.mem_len + 1 if cfg.same_length else 0
            first_seen.append(max(memory_start, window_start))
        start, last_start = start + keep, start

    outputs, lse = [], []
    for i in range(max(0, start - cfg.mem_len), start):
        left = torch.arange(first_seen[i], i + 1)
        right = torch.arange(i + 1, max(i, last_start) + 1)  # none if it has entered just now
        scores = torch.cat(
            [
                score(cfg, w, rows, i, left, ahead=False),
                score(cfg, w, rows, i, right, ahead=True),
            ],
            -1,
        )
        output, total = average(scores, rows.v[:, :, torch.cat([left, right])])
        outputs.append(output)
        lse.append(total)
    return torch.stack(outputs, 2), torch.stack(lse, 2)
