"""Distances between tokens as a layer sees them. Letters as in ``ops.py``; E entries of a table."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn


class Distances(NamedTuple):
    """One layer's view of S distances.

    Shapes: ``keys`` [S, H * d], multiplied with the queries; ``bias`` [S, H], added to the products, or None.
    """

    keys: Tensor
    bias: Optional[Tensor]


class DistanceTable(nn.Module):
    """A learned vector and a learned bias per distance (``--position-encoding shaw``).

    The scores are ``[(q_i + content)·k_j + q_i·embedding_t + bias_t] / sqrt(d)`` with t = i - j, after arXiv
    1803.02155 in the form that Transformer-XL compares itself with (arXiv 1901.02860, section 4.2). Distances
    beyond the table read its last entry.

    Args:
        entries: E, distances 0 to E - 1.
        heads: H.
        head_dim: d.
    """

    def __init__(self, entries: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(entries, heads, head_dim))
        # Its name does not end in "bias": those keep the initial values of torch.
        self.offset = nn.Parameter(torch.empty(entries, heads))
        self.content = nn.Parameter(torch.empty(heads, head_dim))

    def forward(self, distances: Tensor) -> Distances:
        """Distances [S], int64 -> their vectors and biases."""
        entry = distances.clamp(max=self.embedding.size(0) - 1)
        return Distances(self.embedding[entry].flatten(1), self.offset[entry])

    def left(self) -> "tuple[Tensor, None]":
        """(content, position) vectors towards the past, as ``attention.Biases`` has them for other encodings."""
        return self.content, None
