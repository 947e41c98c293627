"""Softmax attention that can be continued later, by its log-sum-exp.

Whole segments compute attention here; single tokens have a form of their own in ``fast_decode.py``. Slow reference:
``average`` and ``merge`` in ``tests/reference.py``.

Letters, here and in every file of the core: B streams, H heads, d head width, D model width, M memory slots, N tokens
of the segment, T = M + N keys, L layers, V words.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor


class Attention(NamedTuple):
    """Attention's output and the log-sum-exp of the scores behind it.

    With both, the softmax can be continued later over further keys (LaMemo, equations 5 to 7).

    Shapes: ``output`` [B, H, N, d]; ``lse`` [B, H, N], float32 or wider, detached.
    """

    output: Tensor
    lse: Tensor


class Attended(NamedTuple):
    """What :func:`attend` returns.

    Shapes: ``output`` [B, H, N, d]; ``lse`` [B, H, N] or None where not asked for; ``weights``
    [B, H, N, keys] before dropout; ``alpha`` [B, H, N], the weight of ``previous_attention``, or None.
    """

    output: Tensor
    lse: Optional[Tensor]
    weights: Tensor
    alpha: Optional[Tensor]


def full_precision(like: Tensor) -> torch.autocast:
    """A context that autocast stays out of, on the device of ``like``: sums there have the width of their terms."""
    return torch.autocast(like.device.type, enabled=False)


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which softmax and log-sum-exp are taken: never less than float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def log_sum_exp(scores: Tensor, weights: Tensor) -> Tensor:
    """Log-sum-exp [...] of ``scores`` [..., keys], given their softmax ``weights``, in float32 or wider; detached.

    Without a second pass of exponentials: p = exp(s - lse), read off at the largest weight.
    """
    return lse_of_largest(scores.detach().amax(-1), weights.detach().amax(-1))


def lse_of_largest(score: Tensor, weight: Tensor) -> Tensor:
    """The log-sum-exp of scores [...], given the largest one and the largest of their weights."""
    wide = softmax_dtype(score.dtype)
    return score.to(wide) - weight.to(wide).log()


def attend(
    scores: Tensor,
    values: Tensor,
    *,
    previous_attention: Optional[Attention] = None,
    dropout: float = 0.0,
    want_lse: bool = False,
) -> Attended:
    """Softmax over ``scores``, continued from ``previous_attention`` where given, times ``values``.

    ``previous_attention`` enters as one more key, with its log-sum-exp as score and its output as value. That is
    the interpolation ``alpha * old + (1 - alpha) * new`` with ``alpha = exp(lse_old) / (exp(lse_old) +
    exp(lse_new))`` (LaMemo, equation 6), in a form that cannot overflow. No gradient reaches ``previous_attention``.

    Slow reference: ``average`` and ``merge`` in ``tests/reference.py``.

    Args:
        scores: [B, H, N, keys], scaled; hidden keys hold ``-inf``. Without ``previous_attention`` each row needs a
            visible key.
        values: [B, H, keys, d].
        previous_attention: outputs [B, H, N, d] and log-sum-exps [B, H, N] of earlier keys.
        dropout: probability with which a weight is dropped; the weight of ``previous_attention`` never is.
        want_lse: return the log-sum-exp over all keys, those behind ``previous_attention`` included.
    """
    wide = softmax_dtype(scores.dtype)
    if previous_attention is not None:
        scores = torch.cat([previous_attention.lse.unsqueeze(-1).to(wide), scores.to(wide)], dim=-1)
    weights = F.softmax(scores, dim=-1, dtype=wide)
    lse = log_sum_exp(scores, weights) if want_lse else None
    if previous_attention is None:
        return Attended(mix(weights, values, dropout), lse, weights, None)
    alpha, weights = weights[..., 0], weights[..., 1:]
    held = alpha.unsqueeze(-1).to(values.dtype) * previous_attention.output
    return Attended(mix(weights, values, dropout) + held, lse, weights, alpha)


def mix(weights: Tensor, values: Tensor, dropout: float) -> Tensor:
    """Attention weights [B, H, N, keys], after dropout, times values [B, H, keys, d]."""
    used = F.dropout(weights, dropout) if dropout > 0 else weights
    return used.to(values.dtype) @ values
