"""Position encodings: how distances between tokens, or places in a segment, enter attention.

A model chooses one of ``ENCODINGS`` once, and the rest of the code calls its methods; nothing else compares names.
An encoding holds no weights: it makes the modules that do. Letters as in ``softmax.py``; S distances, E entries of a
table. Slow reference: ``tests/reference.py`` (``sinusoid``, ``score``) and ``tests/reference_family.py``
(``shaw_attention``).
"""

from typing import ClassVar, Dict, NamedTuple, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .softmax import softmax_dtype


def sinusoids(distance: Tensor, dim: int) -> Tensor:
    """Encodings s(t) of signed distances, the sine half before the cosine half (arXiv 1901.02860, section 3.3).

    Computed in the type of ``distance``, which must be float32 or wider: in half precision a sine at
    position 800 is off by up to 0.33.

    Shapes: [S] -> [S, dim].
    """
    assert distance.dtype in (torch.float32, torch.float64)
    powers = torch.arange(0, dim, 2, dtype=distance.dtype, device=distance.device) / dim
    angles = distance[:, None] / 10000**powers  # [S, dim / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Distances(NamedTuple):
    """One layer's view of S distances.

    Shapes: ``keys`` [S, H * d], multiplied with the queries; ``bias`` [S, H], added to the products, or None.
    """

    keys: Tensor
    bias: Optional[Tensor]


class DistanceTable(nn.Module):
    """Learned relative positions: a vector and a bias per distance (``--position-encoding shaw``).

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

    def left(self) -> Tuple[Tensor, None]:
        """(content, position) vectors towards the past, as :class:`Biases` has them for other encodings."""
        return self.content, None


class Biases(nn.Module):
    """The vectors per head that all layers share: u (content) and w (position), for both directions.

    Args:
        heads: H.
        head_dim: d.
        shared: whether there are any (LaMemo, section 3.3).
        split_position: the look-ahead has a w of its own.
        split_content: the look-ahead has a u of its own.
    """

    def __init__(self, heads: int, head_dim: int, shared: bool, split_position: bool, split_content: bool) -> None:
        super().__init__()

        def vector(wanted: bool) -> Optional[nn.Parameter]:
            return nn.Parameter(torch.empty(heads, head_dim)) if wanted else None

        self.content = vector(shared)
        self.position = vector(shared)
        self.position_right = vector(split_position)
        self.content_right = vector(split_content)

    def left(self) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """(content, position) vectors [H, d] towards the past."""
        return self.content, self.position

    def right(self) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """(content, position) vectors [H, d] towards the future."""
        content = self.content if self.content_right is None else self.content_right
        position = self.position if self.position_right is None else self.position_right
        return content, position


class PositionEncoding:
    """A position encoding: relative, with fixed sinusoids that each layer projects, unless a subclass says otherwise.

    Args:
        dim: D.
        clamp_len: distances above it are encoded as it (None: no limit).
        entries: distances that a table of learned ones tells apart; other encodings have no table.
    """

    name: ClassVar[str]
    #: whether distances are encoded, rather than places in the segment
    relative: ClassVar[bool] = True
    #: whether a distance to the right is encoded as the negative distance that it is, not by its size
    signed: ClassVar[bool] = False
    #: whether the look-ahead has position vectors, and content vectors, of its own
    split_position: ClassVar[bool] = False
    split_content: ClassVar[bool] = False
    #: whether distances have learned entries (``--max-distance``)
    learned: ClassVar[bool] = False

    def __init__(self, dim: int, clamp_len: Optional[int] = None, entries: Optional[int] = None) -> None:
        self.dim, self.clamp_len, self.entries = dim, clamp_len, entries

    def biases(self, looks_ahead: bool, heads: int, head_dim: int) -> Biases:
        """The vectors that all layers share."""
        ahead = looks_ahead and self.split_position, looks_ahead and self.split_content
        return Biases(heads, head_dim, self.relative and not self.learned, *ahead)

    def projection(self, width: int) -> Optional[nn.Linear]:
        """A layer's projection of the encodings, D -> ``width`` = H * d; None without sinusoids of distances."""
        return nn.Linear(self.dim, width, bias=False)

    def table(self, heads: int, head_dim: int) -> Optional[DistanceTable]:
        """A layer's learned distances, or None."""
        return None

    def encode(self, top: int, lowest: int, like: Tensor) -> Optional[Tensor]:
        """Encodings of the distances ``top`` down to ``lowest``, [top - lowest + 1, D], typed as ``like``.

        With learned distances, these distances themselves, int64; None where none are encoded.
        """
        distance = torch.arange(top, lowest - 1, -1, dtype=softmax_dtype(like.dtype), device=like.device)
        if self.clamp_len is not None:
            distance = distance.clamp(max=self.clamp_len)
        return sinusoids(distance, self.dim).to(like.dtype)

    def drop(self, encodings: Tensor, probability: float) -> Tensor:
        """Encodings in training, after dropout."""
        return F.dropout(encodings, probability)

    def add_places(self, x: Tensor, first: int) -> Tensor:
        """Embeddings [B, N, D] of the places first, first + 1, ... of a segment; unchanged if relative."""
        return x


class Disentangled(PositionEncoding):
    """LaMemo's: w_left towards the past and w_right towards the future (arXiv 2204.07341, section 3.3)."""

    name = "disentangled"
    split_position = True


class DisentangledV2(Disentangled):
    """LaMemo's variant in which the content vector u is split too."""

    name = "disentangled-v2"
    split_content = True


class TransformerXL(PositionEncoding):
    """Transformer-XL's: one u and one w for all directions, negative distances to the right (arXiv 1901.02860)."""

    name = "transformer-xl"
    signed = True


class Shaw(PositionEncoding):
    """Learned vectors and biases per distance and layer (arXiv 1803.02155): see :class:`DistanceTable`."""

    name = "shaw"
    learned = True

    def projection(self, width: int) -> Optional[nn.Linear]:
        return None

    def table(self, heads: int, head_dim: int) -> Optional[DistanceTable]:
        assert self.entries is not None
        return DistanceTable(self.entries, heads, head_dim)

    def encode(self, top: int, lowest: int, like: Tensor) -> Optional[Tensor]:
        distance = torch.arange(top, lowest - 1, -1, device=like.device)
        return distance if self.clamp_len is None else distance.clamp(max=self.clamp_len)

    def drop(self, encodings: Tensor, probability: float) -> Tensor:
        return encodings  # whole numbers, by which a table is read: there is nothing to drop


class Absolute(PositionEncoding):
    """Sinusoids of the place in the segment, added to the embeddings (arXiv 1706.03762)."""

    name = "absolute"
    relative = False

    def projection(self, width: int) -> Optional[nn.Linear]:
        return None

    def encode(self, top: int, lowest: int, like: Tensor) -> Optional[Tensor]:
        return None

    def add_places(self, x: Tensor, first: int) -> Tensor:
        place = torch.arange(first, first + x.size(1), dtype=softmax_dtype(x.dtype), device=x.device)
        return x + sinusoids(place, self.dim).to(x.dtype)


#: by the name that ``--position-encoding`` takes
ENCODINGS: Dict[str, Type[PositionEncoding]] = {
    encoding.name: encoding for encoding in (Disentangled, DisentangledV2, TransformerXL, Shaw, Absolute)
}
