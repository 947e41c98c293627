"""Attention with relative positions as one operation: what ``attention.py`` computes step by step, with less memory.

Scores, mask, softmax, log-sum-exp, values and the merge with earlier attention are one node for autograd. It keeps one
set of weights in the type of the scores, where the steps keep them in float32 and as a copy, and never makes scores of
16 bits wider: a softmax sums in float32 inside. The gradient of the merged output needs no gradient of the log-sum-exp:
with p the weights of all keys, the earlier attention included, and o the output, d o / d score_j = p_j (v_j - o).
Slow reference: ``RelativeAttention.causal_scores``, ``ahead_scores`` and ``softmax.attend``. Letters as in
``softmax.py`` and ``positions.py``; S columns of distances, one more than a row of the aligned window is long.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .compiled import is_compiling
from .softmax import Attention, full_precision, log_sum_exp, softmax_dtype


@dataclass(frozen=True)
class Window:
    """Where the aligned scores lie in the products of n queries with S distances, as in ``positions.align``.

    Row r, key c is element ``start + r (S - 1) + c`` of the flat products [n * S] of one stream and head.

    Attributes:
        start: the first row's first key.
        visible: keys, from the first on, that no row's mask hides.
    """

    start: int
    visible: int = 0

    def of(self, flat: Tensor, rows: int, keys: int, columns: int) -> Tensor:
        """The window [H * B, n, keys] of ``flat`` [H * B, n * S], a view."""
        return flat.as_strided((flat.size(0), rows, keys), (rows * columns, columns - 1, 1), self.start)

    def product(self, one: Tensor, other: Tensor, columns: int) -> Tuple[Tensor, Tensor]:
        """``one * other`` [H * B, n, keys] and the flat [H * B, n * S] with it in the window and 0 elsewhere."""
        groups, n, count = one.shape
        if is_compiling():  # into part of a tensor nothing can be traced; compiled, padding costs no pass of its own
            scores = one * other
            rows = F.pad(scores, (0, columns - 1 - count)).flatten(1)  # rows as far apart as in the window
            return F.pad(rows, (self.start, n - self.start)), scores
        # Written where the products' gradient wants it: the products outside of the window were seen by nobody.
        flat = one.new_empty(groups, n * columns)
        if count == columns - 1:
            flat[:, : self.start] = 0
            flat[:, self.start + n * count :] = 0
        else:
            flat.zero_()
        return flat, torch.mul(one, other, out=self.of(flat, n, count, columns))


class FusedAttention(NamedTuple):
    """As ``softmax.Attended``, without the weights."""

    output: Tensor
    lse: Optional[Tensor]
    alpha: Optional[Tensor]


def head_major(tensor: Tensor) -> Tensor:
    """[B, H, n, d] -> [H * B, n, d]: one head's distances then serve all streams by one product."""
    return tensor.transpose(0, 1).flatten(0, 1)


def dropout_mask(like: Tensor, dropout: float) -> Tensor:
    """What dropout multiplies by: 0, or 1 / (1 - p), in the shape of ``like``."""
    if is_compiling():  # inductor of torch 2.13 gives NaN for the form below, where it is kept for backward
        return F.dropout(torch.ones_like(like), dropout)
    return torch.empty_like(like).bernoulli_(1 - dropout).div_(1 - dropout)


class RelativeSoftmax(torch.autograd.Function):
    """The node: see :func:`fused_attention`."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        content: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        relative: Tensor,
        mask: Tensor,
        window: Window,
        previous: Optional[Attention],
        dropout: float,
        want_lse: bool,
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        B, H, n, d = content.shape
        count, S = keys.size(2), relative.size(0)
        wide = softmax_dtype(content.dtype)
        products = torch.bmm(head_major(position).view(H, B * n, d), relative.permute(1, 2, 0))  # [H, B * n, S]
        aligned = window.of(products.view(H * B, n * S), n, count, S)
        scores = torch.baddbmm(aligned, head_major(content), head_major(keys).transpose(1, 2))  # [H * B, n, keys]
        del products, aligned
        scores[..., window.visible :].add_(mask[:, window.visible :])  # "+=" would copy the part onto itself
        weights = torch.softmax(scores, dim=-1)
        lse: Optional[Tensor] = None
        if want_lse or previous is not None:
            lse = log_sum_exp(scores, weights).view(H, B, n).transpose(0, 1)
        del scores
        keep = None
        if dropout > 0:
            keep = dropout_mask(weights, dropout)
        used = weights if keep is None else weights * keep
        output = torch.bmm(used, head_major(values)).view(H, B, n, d).transpose(0, 1)
        alpha = None
        if previous is not None:
            assert lse is not None
            old = previous.lse.to(wide)
            lse = torch.logaddexp(old, lse)
            alpha = (old - lse).exp()
            output = torch.lerp(output, previous.output.to(output.dtype), alpha.unsqueeze(-1).to(output.dtype))
        ctx.save_for_backward(content, position, keys, values, relative, weights, output, alpha, keep)
        ctx.window = window
        ctx.mark_non_differentiable(*(tensor for tensor in (lse, alpha) if tensor is not None))
        return output, lse, alpha

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        with full_precision(gradients[0]):
            found = gradients_of(ctx.window, ctx.saved_tensors, gradients[0])
        return (*found, None, None, None, None, None)


def gradients_of(window: Window, saved: Tuple[Any, ...], gradient: Tensor) -> Tuple[Tensor, ...]:
    """Gradients of content and position queries, keys, values and distances, from that of the output [B, H, n, d]."""
    content, position, keys, values, relative, weights, output, alpha, keep = saved
    B, H, n, d = content.shape
    S = relative.size(0)
    if alpha is not None:  # the new keys' part of all weights
        gradient = gradient * (1 - alpha).unsqueeze(-1).to(gradient.dtype)
    delta = (gradient * output).sum(-1, dtype=softmax_dtype(gradient.dtype)).to(gradient.dtype)
    grad_out, delta = head_major(gradient), head_major(delta.unsqueeze(-1))  # [H * B, n, d], [H * B, n, 1]
    used = weights if keep is None else weights * keep
    grad_values = torch.bmm(used.transpose(1, 2), grad_out)
    values_t = head_major(values).transpose(1, 2)
    if keep is None:
        grad_weights = torch.baddbmm(-delta, grad_out, values_t)
    else:
        grad_weights = torch.bmm(grad_out, values_t).mul_(keep).sub_(delta)
    flat, scores = window.product(grad_weights, weights, S)
    del grad_weights
    grad_content = torch.bmm(scores, head_major(keys))
    grad_keys = torch.bmm(scores.transpose(1, 2), head_major(content))
    products = flat.view(H, B * n, S)
    grad_position = torch.bmm(products, relative.transpose(0, 1))  # [H, B * n, d]
    grad_relative = torch.bmm(products.transpose(1, 2), head_major(position).view(H, B * n, d)).transpose(0, 1)

    def stream_major(tensor: Tensor) -> Tensor:
        return tensor.view(H, B, -1, d).transpose(0, 1)

    return (
        stream_major(grad_content),
        stream_major(grad_position),
        stream_major(grad_keys),
        stream_major(grad_values),
        grad_relative,
    )


def fused_attention(
    content: Tensor,
    position: Tensor,
    keys: Tensor,
    values: Tensor,
    relative: Tensor,
    mask: Tensor,
    window: Window,
    *,
    previous_attention: Optional[Attention] = None,
    dropout: float = 0.0,
    want_lse: bool = False,
) -> FusedAttention:
    """Softmax attention whose scores are content·key + position·R_distance, continued from ``previous_attention``.

    Slow reference: ``causal_scores``, ``ahead_scores`` and ``attend``, compared in ``tests/core/test_fused.py``.

    Args:
        content: scaled queries with the content vector, [B, H, n, d].
        position: scaled queries with the position vector, [B, H, n, d].
        keys: [B, H, keys, d].
        values: [B, H, keys, d].
        relative: projected encodings R of S distances, [S, H, d], in the order that ``window`` aligns.
        mask: [n, keys], ``-inf`` where a row may not look; each row sees a key.
        window: which distance belongs to which key.
        previous_attention: as in ``softmax.attend``, also for the gradient.
        dropout: probability with which a weight is dropped.
        want_lse: return the log-sum-exp; with ``previous_attention`` it is returned anyway.
    """
    # Under autocast the projections are of 16 bits and the vectors of 32: products take the former's type.
    narrow = (tensor.to(keys.dtype) for tensor in (content, position, keys, values, relative, mask))
    with full_precision(keys):
        return FusedAttention(*RelativeSoftmax.apply(*narrow, window, previous_attention, dropout, want_lse))
