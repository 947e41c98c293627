"""One layer: attention, feed-forward, and the norms and residuals around them.

It is handed what its memory recalls and never asks which kind of memory that is. Letters as in ``ops.py``.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Biases, Cache, RelativeAttention
from .memory.base import Recall
from .ops import Attention
from .positions import Plan
from .probe import LayerProbe


class LayerOutput(NamedTuple):
    """``current`` [B, N, D] and ``below`` [B, M, D] go to the next layer, ``kept`` to the memory.

    ``below`` is the rows as they came where the memory did not look ahead.
    """

    current: Tensor
    below: Tensor
    kept: Optional[Attention]
    alpha: Optional[Tensor]


class FeedForward(nn.Module):
    """W2 ReLU(W1 x + b1) + b2, dropout after both. Shapes: [B, n, D] -> [B, n, D]."""

    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(F.relu_(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(inner), self.dropout, self.training)


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
        recall: Recall,
        plan: Plan,
        biases: Biases,
        want_lse: bool,
        cache: Optional[Cache] = None,
        probe: Optional[LayerProbe] = None,
    ) -> LayerOutput:
        """Reads ``recall`` and the current tokens ``x`` [B, N, D]."""
        M = recall.rows.size(1)
        h = torch.cat([recall.rows, x], dim=1)  # [B, M + N, D]
        mixed = self.attention(
            self.attention_norm(h) if self.normalize_before else h,
            M,
            plan,
            biases,
            carried=recall.carried,
            want_lse=want_lse,
            cache=cache,
            probe=probe,
        )
        # Without look-ahead the memory rows end here: only the current tokens go on.
        read_only = h.size(1) - mixed.rows.size(1)
        h = h[:, read_only:] + F.dropout(mixed.rows, self.dropout, self.training)
        if self.normalize_before:
            h = h + self.feed_forward(self.feed_forward_norm(h))
        else:
            h = self.attention_norm(h)
            h = self.feed_forward_norm(h + self.feed_forward(h))
        refreshed = M - read_only
        below = h[:, :refreshed] if refreshed > 0 else recall.rows
        return LayerOutput(h[:, refreshed:], below, mixed.kept, mixed.alpha)
