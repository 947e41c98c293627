"""Log-probabilities of targets over a large vocabulary, without scores over all of it for all tokens at once.

Scores are made for some tokens at a time, and made again in the backward pass: kept is one log-sum-exp per token. One
more product of states with the output layer is the price, so small vocabularies take the plain way.
Slow reference: ``MemoryTransformer.log_probs`` and a gather. V words.
"""

import math
from typing import Any, Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .softmax import full_precision, log_sum_exp, softmax_dtype

# Bytes of scores that are made at once, beside as many of their softmax. Fewer would read the weights, and read and
# write their gradient, more often.
AT_ONCE = 3 * 2**28
# From so many scores on, the plain way's float32 copies and gradients cost more than the second product.
LARGE = 2**27


def pays(features: Tensor, words: int) -> bool:
    """Whether :func:`chunked_target_log_probs` moves fewer bytes than the plain way, for features [n, D]."""
    return features.size(0) * words >= LARGE


def chunks(tokens: int, words: int, dtype: torch.dtype) -> Iterator[slice]:
    """Parts of n tokens, alike in size, whose scores, of type ``dtype``, are made at once."""
    count = min(tokens, math.ceil(tokens * words * dtype.itemsize / AT_ONCE))
    step = math.ceil(tokens / max(1, count))
    return (slice(start, min(start + step, tokens)) for start in range(0, tokens, step))


class TargetLogProbs(torch.autograd.Function):
    """The node: see :func:`chunked_target_log_probs`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
        wide = softmax_dtype(features.dtype)
        log_probs = features.new_empty(features.size(0), dtype=wide)
        for part in chunks(features.size(0), weight.size(0), weight.dtype):
            scores = F.linear(features[part], weight, bias)  # [n', V]
            lse = log_sum_exp(scores, torch.softmax(scores, dim=1))
            log_probs[part] = scores.gather(1, targets[part, None]).squeeze(1) - lse
            del scores
        ctx.save_for_backward(features, weight, bias, targets)
        return log_probs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        features, weight, bias, targets = ctx.saved_tensors
        with full_precision(features):
            gradient = gradient.to(features.dtype).unsqueeze(1)  # [n, 1]
            D = features.size(1)
            # Another column, of ones, makes the bias's gradient part of the weights' product. Rows are a multiple of
            # 8 numbers apart, which matrix units of a GPU want.
            weighted = features.new_empty(features.size(0), D // 8 * 8 + 8)[:, : D + 1]
            torch.mul(features, gradient, out=weighted[:, :D])
            weighted[:, D:] = gradient
            # d log p_target / d scores = onehot - p, here its two parts one after the other.
            grad_features = weight[targets] * gradient
            sums = weight.new_empty(weight.size(0), D // 8 * 8 + 8)[:, : D + 1]  # of p, weighted
            for part in chunks(features.size(0), weight.size(0), weight.dtype):
                p = torch.softmax(F.linear(features[part], weight, bias), dim=1)  # [n', V]
                grad_features[part] -= (p @ weight) * gradient[part]
                if part.start == 0:
                    torch.mm(p.t(), weighted[part], out=sums)
                else:
                    sums.addmm_(p.t(), weighted[part])
                del p
            grad = sums.neg_().index_add_(0, targets, weighted)
        return grad_features, grad[:, :D], grad[:, D], None


def chunked_target_log_probs(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [n] of ``targets`` [n] given ``features`` [n, D], in float32 or wider.

    Slow reference: ``MemoryTransformer.log_probs`` and a gather, compared in ``tests/core/test_fused.py``.

    Args:
        features: [n, D].
        weight: of the output layer, [V, D].
        bias: of the output layer, [V].
        targets: [n] ids.
    """
    dtype = F.linear(features[:1], weight[:1]).dtype  # of 16 bits under autocast
    cast = (tensor.to(dtype) for tensor in (features, weight, bias))
    with full_precision(features):
        return TargetLogProbs.apply(*cast, targets)  # type: ignore[no-any-return]
