"""Attention with relative positions as one operation: what ``attention.py`` computes step by step, with less memory.

Vectors, scores, mask, softmax, log-sum-exp, values and the merge with earlier attention, of the segment and of the
memory that looks ahead, are one node for autograd. It keeps one set of weights in the type of the scores, where the
steps keep them in float32 and as a copy, never makes scores of 16 bits wider (a softmax sums in float32 inside), and
writes each part where the next product wants it. The gradient of the merged output needs no gradient of the
log-sum-exp: with p the weights of all keys, the earlier attention included, and o the output,
d o / d score_j = p_j (v_j - o).
Slow reference: ``RelativeAttention.causal_scores``, ``ahead_scores`` and ``softmax.attend``. Letters as in
``fused_side.py``.
"""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .encodings import Biases
from .fused_side import Flow, Saved, Side, Window, attend, gradients_of, write
from .positions import AttentionGeometry
from .softmax import Attention, full_precision, lse_of_largest, softmax_dtype


class FusedAttention(NamedTuple):
    """``output`` [B, Q, H * d]; ``attention`` the same with its log-sum-exp, detached, where asked for; ``alpha``
    [B, H, M], the weight of ``previous_attention``, or None."""

    output: Tensor
    attention: Optional[Attention]
    alpha: Optional[Tensor]


def head_major(parts: Sequence[Tensor], heads: int) -> Tensor:
    """Keys beside values, parts [B, n, 2 * H * d], as [2, H * B, T, d]."""
    split = [part.unflatten(-1, (2, heads, -1)).permute(2, 3, 0, 1, 4) for part in parts]  # [2, H, B, n, d]
    _, H, B, _, d = split[0].shape
    joined = parts[0].new_empty(2, H, B, sum(part.size(3) for part in split), d)
    start = 0
    for part in split:
        joined[:, :, :, start : start + part.size(3)].copy_(part)
        start += part.size(3)
    return joined.flatten(1, 2)


def merge(previous: Attention, output: Tensor, lse: Tensor) -> Tensor:
    """Continues ``previous`` by ``output`` [H, B, M, d] and ``lse`` [H, B, M], in place; the weight that fell on it.

    As in ``softmax.attend``.
    """
    old = previous.lse.to(lse.dtype).transpose(0, 1)
    alpha = torch.sigmoid(old - lse)
    write(lse, torch.logaddexp, old, lse)
    output.lerp_(previous.output.to(output.dtype).transpose(0, 1), alpha.unsqueeze(-1).to(output.dtype))
    return alpha


def begin_backward(gradient: Tensor, kept: Tuple[Tensor, ...], right: Optional[Side], older: int) -> Flow:
    """The flow of a backward pass, from the gradient of the output [B, Q, H * d]; the ``older`` keys want none."""
    keys, values, encodings, output, *further = kept
    alpha: Optional[Tensor] = further[0]
    B, Q, width = gradient.shape
    d, T = keys.shape[2], keys.size(1)
    H = width // d
    delta = (gradient * output).unflatten(-1, (H, d)).sum(-1, dtype=softmax_dtype(gradient.dtype)).permute(2, 0, 1)
    by_head = gradient.unflatten(-1, (H, d)).permute(2, 0, 1, 3)  # [H, B, Q, d]
    flow = gradient.new_empty(H, B, Q, d)
    if right is None or alpha is None:
        flow.copy_(by_head)
    else:  # the new keys' part of all weights
        M, rest = right.rows.stop, 1 - alpha
        delta[..., :M].mul_(rest)
        write(flow[:, :, :M], torch.mul, by_head[:, :, :M], rest.unsqueeze(-1).to(flow.dtype))
        flow[:, :, M:].copy_(by_head[:, :, M:])
    return Flow(
        flow.flatten(0, 1),
        delta.to(flow.dtype).reshape(H * B, Q, 1),
        keys,
        values,
        gradient.new_empty(B, Q, H, d),
        gradient.new_empty(2, H * B, T - older, d),
        encodings.new_zeros(encodings.size(0), H, d),
    )


class RelativeSoftmax(torch.autograd.Function):
    """The node: see :func:`fused_attention`. Of two directions the first is the segment's, the other the memory's.

    A vector of the other is None where it is the first one's.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        queries: Tensor,
        older: Optional[Tensor],
        newer: Tensor,
        encodings: Tensor,
        content: Tensor,
        position: Tensor,
        right_content: Optional[Tensor],
        right_position: Optional[Tensor],
        left: Side,
        right: Optional[Side],
        previous: Optional[Attention],
        dropout: float,
        want_lse: bool,
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
        left_vectors, right_vectors = (content, position), (right_content, right_position)
        H, d = content.shape
        queries = queries.unflatten(-1, (H, d))
        B, Q = queries.shape[:2]
        keys, values = head_major([newer] if older is None else [older, newer], H)
        output = queries.new_empty(H * B, Q, d)
        largest = queries.new_empty(2, H * B, Q) if want_lse else None
        shared = (encodings, keys, values, dropout, output, largest)
        saved = tuple(attend(left, queries, left_vectors, *shared))
        if right is not None:
            own = [theirs if ours is None else ours for ours, theirs in zip(right_vectors, left_vectors)]
            saved += tuple(attend(right, queries, (own[0], own[1]), *shared))
        by_head, lse, alpha = output.view(H, B, Q, d), None, None
        if largest is not None:
            lse = lse_of_largest(*largest).view(H, B, Q)
        if right is not None:
            assert lse is not None and previous is not None
            alpha = merge(previous, by_head[:, :, right.rows], lse[:, :, right.rows])
        joined = by_head.permute(1, 2, 0, 3).flatten(2)  # [B, Q, H * d], a copy
        ctx.save_for_backward(keys, values, encodings, joined, alpha, *saved)
        ctx.owns = [vector is not None for vector in right_vectors]
        ctx.sides, ctx.older, ctx.newer = (left, right), 0 if older is None else older.size(1), newer.size(1)
        states = (None, None) if lse is None else (by_head.transpose(0, 1), lse.transpose(0, 1))
        weight = None if alpha is None else alpha.transpose(0, 1)
        ctx.mark_non_differentiable(*(tensor for tensor in (*states, weight) if tensor is not None))
        return (joined, *states, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (left, right), older = ctx.sides, ctx.older
        everything, count = ctx.saved_tensors, len(Saved._fields)  # read once, which checkpointing asks for
        kept, saved = everything[:5], everything[5:]
        unread = 0 if ctx.needs_input_grad[1] else older  # memory that is only read wants no gradient
        with full_precision(gradients[0]):
            flow = begin_backward(gradients[0], kept, right, unread)
            first = gradients_of(left, Saved(*saved[:count]), flow, first=True)
            vectors: List[Optional[Tensor]] = [*first, None, None]
            if right is not None:
                found = gradients_of(right, Saved(*saved[count:]), flow, first=False)
                for number, (owns, vector) in enumerate(zip(ctx.owns, found)):
                    vectors[2 + number if owns else number] = vector if owns else first[number] + vector
            grad_older = flow.part(0, older) if ctx.needs_input_grad[1] else None
            grad_newer = flow.part(older - unread, older - unread + ctx.newer)
        parts = flow.grad_queries.flatten(2), grad_older, grad_newer, flow.grad_encodings.flatten(1)
        return (*parts, *vectors, *[None] * 5)


def fused_attention(
    queries: Tensor,
    keys_values: Sequence[Tensor],
    encodings: Tensor,
    geometry: AttentionGeometry,
    biases: Biases,
    *,
    previous_attention: Optional[Attention] = None,
    dropout: float = 0.0,
    want_lse: bool = False,
) -> FusedAttention:
    """Softmax attention whose scores are content·key + position·R_distance: of the segment to its left and, given
    ``previous_attention``, of the memory to its right, continued from that.

    Slow reference: ``causal_scores``, ``ahead_scores`` and ``attend``, compared in ``tests/core/test_fused.py``.

    Args:
        queries: projected, [B, M' + N, H * d], M' = M with ``previous_attention`` and else 0.
        keys_values: projected keys beside values [B, n, 2 * H * d], of memory and segment, joined or in two parts.
        encodings: projected, of all distances, [S', H * d].
        geometry: masks, [N, T] and [M, K], and which encoding belongs where.
        biases: content and position vectors.
        previous_attention: as in ``softmax.attend``, also for the gradient; ``geometry.ahead.rising`` is needed.
        dropout: probability with which a weight is dropped.
        want_lse: return the attention's state; with ``previous_attention`` it is returned anyway.
    """
    N, T = geometry.attn_mask.shape
    M = queries.size(1) - N
    window = Window(N, geometry.visible)
    left = Side(slice(M, M + N), slice(0, T), geometry.causal, geometry.attn_mask, window)
    right = None
    vectors: List[Optional[Tensor]] = [*biases.left(), None, None]
    if previous_attention is not None:
        ahead = geometry.ahead
        assert ahead is not None and ahead.rising is not None
        span = slice(M - ahead.keys + 1, M + 1)
        right = Side(slice(0, M), span, ahead.rising, ahead.attn_mask, Window(M - ahead.keys))
        # A vector that both directions share is given once: torch cannot trace what is given twice.
        vectors[2:] = [None if own is shared else own for own, shared in zip(biases.right(), biases.left())]
    older, newer = (None, keys_values[0]) if len(keys_values) == 1 else keys_values
    # Under autocast the projections are of 16 bits and the vectors of 32: products take the former's type.
    dtype = newer.dtype
    narrow = [None if tensor is None else tensor.to(dtype) for tensor in (queries, older, newer, encodings, *vectors)]
    with full_precision(newer):
        output, state, lse, alpha = RelativeSoftmax.apply(
            *narrow, left, right, previous_attention, dropout, want_lse or right is not None
        )
    return FusedAttention(output, None if state is None else Attention(state, lse), alpha)
