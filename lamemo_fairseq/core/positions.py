"""Distances between tokens: sinusoids, the shift that aligns them with keys, and who may see whom.

Pure functions and the plan that one segment shares between all layers. Memory sits at positions 0..M-1, the
segment behind it. Letters as in ``ops.py``; A is the number of tokens that entered the memory last,
K = min(A, M) the keys of the look-ahead pass, C the rows of one of its blocks.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

# Rows of memory whose look-ahead position scores are computed by one product. A block of C rows needs C + K
# distances for K keys, so small blocks waste little and large ones feed the matrix unit: 64 is a compromise.
BLOCK = 64


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


def align(products: Tensor) -> Tensor:
    """Turns products with distances into products with keys, as a view: nothing is copied.

    Row r of ``products`` [..., C, L] holds the query of row r against L distances that fall (or rise) by one
    per column. Its keys begin ``C - r`` columns in, since each row stands one position further than the last:
    ``aligned[r, c] = products[r, c + C - r]``. In a flat buffer that is a fixed stride of L - 1, so the
    result [..., C, L - 1] is a window on the same numbers. Entries beyond a row's own keys belong to its
    neighbour and must be hidden by the caller.
    """
    rows, columns = products.shape[-2:]
    flat = products.flatten(-2)
    return flat.narrow(-1, rows, rows * (columns - 1)).unflatten(-1, (rows, columns - 1))


@dataclass(frozen=True)
class LookAheadGeometry:
    """The look-ahead half of a plan: memory rows against the K keys that end at the first current token.

    ``index`` [blocks, C + K] names, per block of memory rows, the rows of the encodings; ``attn_mask`` holds
    ``-inf`` where a row may not look, [M, K] or [B, 1, M, K].
    """

    index: Tensor
    attn_mask: Tensor
    keys: int


@dataclass(frozen=True)
class AttentionGeometry:
    """What all layers share about one segment (or one further chunk of an open segment).

    ``encodings`` [S, D] of falling distances, down to 0 or, where the look-ahead needs them, below; the
    distances themselves, [S] int64, where a table has an entry for each; None for absolute positions. ``causal``
    names the rows for T, T-1, ..., 0. ``attn_mask`` [N, T] or [B, 1, N, T] holds
    ``-inf`` where a token may not look.
    """

    encodings: Optional[Tensor]
    causal: slice
    attn_mask: Tensor
    ahead: Optional[LookAheadGeometry]


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, ``-inf`` elsewhere: added to scores, it costs the backward pass nothing."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def same_document(queries: Tensor, keys: Tensor) -> Tensor:
    """[B, rows] and [B, keys] document numbers -> [B, 1, rows, keys] visibility."""
    return (queries[:, :, None] == keys[:, None, :]).unsqueeze(1)


def causal_visibility(rows: int, keys: int, reach: Optional[int], device: torch.device) -> Tensor:
    """[rows, keys]: the last ``rows`` of ``keys`` tokens see themselves and what is left of them.

    ``reach`` limits the distance to less than itself (``--same-length``).
    """
    at = torch.arange(keys, device=device)
    distance = at[keys - rows :, None] - at
    visible = distance >= 0
    if reach is not None:
        visible &= distance < reach
    return visible


def ahead_visibility(memory: int, keys: int, full: bool, device: torch.device) -> Tensor:
    """[M, K]: memory row i sees the keys M-K+1..M that lie right of it, or all of them with ``full``."""
    row = torch.arange(memory, device=device)[:, None]
    key = torch.arange(memory - keys + 1, memory + 1, device=device)
    return torch.ones(memory, keys, dtype=torch.bool, device=device) if full else key > row


def ahead_index(memory: int, keys: int, top: int, lowest: int, signed: bool, device: torch.device) -> Tensor:
    """Rows of the encodings (distances ``top`` downwards to ``lowest``) for each block of memory rows.

    Column x of block b stands for the offset ``j - i = M - K + 1 - (b + 1)C + x``, in the order that
    :func:`align` undoes. A right-hand offset is encoded by its size, or with ``signed`` as the negative
    distance that it is.

    Shapes: -> [blocks, C + K].
    """
    block = min(BLOCK, memory)
    blocks = -(-memory // block)
    first = memory - keys + 1 - (torch.arange(blocks, device=device) + 1) * block
    offset = first[:, None] + torch.arange(block + keys, device=device)
    distance = -offset if signed else offset.abs()
    # Columns that no visible key uses may fall outside of the table: any row serves them.
    return top - distance.clamp(lowest, top)


@dataclass(frozen=True)
class Positions:
    """How distances are encoded and limited; makes the plans.

    Attributes:
        encoding: as ``--position-encoding``.
        dim: D.
        clamp_len: distances above it are encoded as it (None: no limit).
        reach: tokens see keys nearer than it (``--same-length``, None: all).
        full: the look-ahead goes to both sides (``--look-ahead full``).
    """

    encoding: str
    dim: int
    clamp_len: Optional[int]
    reach: Optional[int]
    full: bool

    @property
    def relative(self) -> bool:
        """Whether distances are encoded, rather than places in the segment."""
        return self.encoding != "absolute"

    def encode(self, top: int, lowest: int, like: Tensor) -> Tensor:
        """Encodings of the distances ``top`` down to ``lowest``, [top - lowest + 1, D], typed as ``like``.

        With ``shaw``, a learned table has the encodings, and the result is the distances, int64.
        """
        if self.encoding == "shaw":
            at = torch.arange(top, lowest - 1, -1, device=like.device)
            return at if self.clamp_len is None else at.clamp(max=self.clamp_len)
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        distance = torch.arange(top, lowest - 1, -1, dtype=wide, device=like.device)
        if self.clamp_len is not None:
            distance = distance.clamp(max=self.clamp_len)
        return sinusoids(distance, self.dim).to(like.dtype)

    def places(self, first: int, tokens: int, like: Tensor) -> Tensor:
        """Absolute encodings [N, D] of the places first, first + 1, ... in a segment."""
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        place = torch.arange(first, first + tokens, dtype=wide, device=like.device)
        return sinusoids(place, self.dim).to(like.dtype)

    def plan(
        self,
        tokens: int,
        memory: int,
        last_written: int,
        like: Tensor,
        *,
        looks_ahead: bool,
        before: int = 0,
        capacity: Optional[int] = None,
        documents: Optional[Tensor] = None,
    ) -> AttentionGeometry:
        """The plan of a segment of N ``tokens`` behind M ``memory`` rows.

        Args:
            tokens: N.
            memory: M.
            last_written: A, what entered the memory last.
            like: a tensor whose type and device the plan takes.
            looks_ahead: whether memory rows attend to their right.
            before: tokens of the segment that are cached already, of an open segment; no look-ahead then.
            capacity: tokens that an open segment can hold: the encodings reach that far, for later chunks.
            documents: [B, M + before + N] document numbers, None where each stream is one document.
        """
        keys = memory + before + tokens
        device = like.device
        visible = causal_visibility(tokens, keys, self.reach, device)
        if documents is not None:
            visible = visible & same_document(documents[:, keys - tokens :], documents)
        ahead = None
        if looks_ahead and memory > 0 and before == 0:
            ahead = self.plan_ahead(memory, last_written, keys, capacity, like, documents)
        if not self.relative:
            return AttentionGeometry(None, slice(0), hide(visible, like.dtype), ahead)
        top = keys if capacity is None else memory + capacity
        lowest = -memory if looks_ahead and self.signed else 0
        encodings = self.encode(top, lowest, like) if before == 0 else None
        return AttentionGeometry(encodings, slice(top - keys, top + 1), hide(visible, like.dtype), ahead)

    @property
    def signed(self) -> bool:
        """Whether a distance to the right is encoded as the negative distance that it is."""
        return self.encoding == "transformer-xl"

    def plan_ahead(
        self,
        memory: int,
        last_written: int,
        keys: int,
        capacity: Optional[int],
        like: Tensor,
        documents: Optional[Tensor],
    ) -> LookAheadGeometry:
        """The look-ahead half: memory row i sees max(i, M - A) < j <= M (GENERAL rule: A, not N)."""
        seen = min(last_written, memory)
        top = keys if capacity is None else memory + capacity
        lowest = -memory if self.signed else 0
        index = ahead_index(memory, seen, top, lowest, self.signed, like.device)
        visible = ahead_visibility(memory, seen, self.full, like.device)
        if documents is not None:
            span = documents[:, memory - seen + 1 : memory + 1]
            visible = visible & same_document(documents[:, :memory], span)
        return LookAheadGeometry(index, hide(visible, like.dtype), seen)
