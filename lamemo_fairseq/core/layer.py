"""A transformer layer: attention, feed-forward, and the norms and residuals around them.

It is handed what its memory recalls and never asks which kind of memory that is. Slow reference: ``tests/reference.py``
(``segment``). Letters as in ``softmax.py``.
"""

from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Biases, RelativeAttention
from .kv_cache import Cache
from .memory.base import LayerMemory
from .positions import AttentionGeometry
from .probe import LayerProbe
from .softmax import Attention, attend


class LayerOutput(NamedTuple):
    """``current`` [B, N, D] and ``memory_hidden`` [B, M, D] go to the next layer, ``attention_state`` to the memory.

    ``joined`` [B, M + N, D] is both, of which they are parts; where the memory was only read, ``memory_hidden`` is as
    it came, and ``joined`` None.
    """

    current: Tensor
    memory_hidden: Tensor
    joined: Optional[Tensor]
    attention_state: Optional[Attention]
    alpha: Optional[Tensor]
    usage: Optional[Tensor]
    loss: Optional[Tensor]


class ReluDropout(torch.autograd.Function):
    """ReLU and dropout that keep their result alone, which the product behind them keeps anyway.

    It is positive just where both let a number through, and where they do, its derivative is 1 / (1 - p).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:  # type: ignore[override]
        out = F.dropout(F.relu(x), p)
        ctx.save_for_backward(out)
        ctx.p = p
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> "tuple[Tensor, None]":  # type: ignore[override]
        (out,) = ctx.saved_tensors
        # An ELU without its negative part (alpha 0) masks and scales in one pass; ``out`` is its result.
        return torch.ops.aten.elu_backward(gradient, 0, 1 / (1 - ctx.p), 1, True, out), None


class FeedForward(nn.Module):
    """W2 ReLU(W1 x + b1) + b2, dropout after both. Shapes: [B, n, D] -> [B, n, D]."""

    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        # Flat: the product is no view then, and ReLU may overwrite it. Of an overwritten view, backward makes copies.
        inner = self.fc1(x.flatten(0, 1))  # [B, n, D] -> [B * n, inner]
        inner = ReluDropout.apply(inner, self.dropout) if self.training and self.dropout > 0 else F.relu_(inner)
        return F.dropout(self.fc2(inner), self.dropout, self.training).view(x.shape)


class Layer(nn.Module):
    """Attention and feed-forward over memory and current tokens alike.

    Args:
        attention: the mixer.
        dim: D.
        inner: width of the feed-forward.
        dropout: on both outputs.
        normalize_before: norms before the projections, bare residuals (pre-norm).
    """

    def __init__(
        self,
        attention: RelativeAttention,
        dim: int,
        inner: int,
        dropout: float,
        normalize_before: bool,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, inner, dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout, self.normalize_before = dropout, normalize_before

    def forward(
        self,
        x: Tensor,
        memory: LayerMemory,
        geometry: AttentionGeometry,
        biases: Biases,
        want_lse: bool,
        want_usage: bool,
        cache: Optional[Cache] = None,
        probe: Optional[LayerProbe] = None,
    ) -> LayerOutput:
        """Reads ``memory`` and the current tokens ``x`` [B, N, D]."""
        slots, M = memory.hidden_states, memory.hidden_states.size(1)
        # Slots that are only read, and need no gradient, are projected apart: else the backward pass would make one.
        read_only = memory.previous_attention is None and not memory.recomputed and not slots.requires_grad
        apart = read_only and x.requires_grad and not self.normalize_before and M > 0
        if memory.joined is not None:
            h = memory.joined
        else:
            h = x if apart else torch.cat([slots, x], dim=1)  # [B, M + N, D]
        mixed = self.attention(
            (slots, x) if apart else (self.attention_norm(h) if self.normalize_before else h,),
            0 if memory.recomputed else M,
            geometry,
            biases,
            previous_attention=memory.previous_attention,
            long_term=memory.long_term,
            want_lse=want_lse,
            want_usage=want_usage,
            cache=cache,
            probe=probe,
        )
        # Rows that are only read end here: only the current tokens go on.
        refreshed = mixed.hidden_states.size(1) - x.size(1)
        h = h[:, h.size(1) - x.size(1) - refreshed :] + F.dropout(mixed.hidden_states, self.dropout, self.training)
        if self.normalize_before:
            h = h + self.feed_forward(self.feed_forward_norm(h))
        else:
            h = self.attention_norm(h)
            h = self.feed_forward_norm(h + self.feed_forward(h))
        memory_hidden, joined = (h[:, :refreshed], h) if refreshed > 0 else (slots, None)
        rest = mixed.attention_state, mixed.alpha, mixed.usage, mixed.loss
        return LayerOutput(h[:, refreshed:], memory_hidden, joined, *rest)

    def content_attention(self, x: Tensor, slots: Tensor) -> Tensor:
        """Attention of ``x`` [B, N, D] over ``slots`` [B, m, D] by content alone: softmax(q·k / sqrt(d)) v.

        The layer's weights are held fixed: gradient reaches ``x`` and ``slots`` only. Slow reference:
        ``content_attention`` in ``tests/reference_family.py``.

        Shapes: -> [B, H, N, d].
        """
        if self.normalize_before:
            x, slots = self.normalize_fixed(x), self.normalize_fixed(slots)
        attention = self.attention
        queries = attention.split(F.linear(x, attention.q_proj.weight.detach())) * attention.head_dim**-0.5
        keys, values = F.linear(slots, attention.kv_proj.weight.detach()).chunk(2, dim=-1)
        keys, values = attention.split(keys), attention.split(values)
        return attend(queries @ keys.transpose(-2, -1), values).output

    def normalize_fixed(self, x: Tensor) -> Tensor:
        """Attention's norm with its weights held fixed."""
        norm = self.attention_norm
        return F.layer_norm(x, norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
