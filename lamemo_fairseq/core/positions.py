"""Relative positions: the shift that aligns distances with keys, and the attention masks.

Pure functions, and the geometry that one segment shares between all layers. Memory sits at positions 0..M-1, the
segment behind it. Slow reference: ``tests/reference.py`` (``score``, ``causal_keys``, ``look_ahead_keys``). Letters as
in ``softmax.py``; A is the number of tokens that entered the memory last, K = min(A, M) the keys of the look-ahead
pass, C the slots of one of its blocks.
"""

from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor

from .encodings import PositionEncoding

# Memory slots whose look-ahead position scores are computed by one product. A block of C slots needs C + K
# distances for K keys, so small blocks waste little and large ones feed the matrix unit: 64 is a compromise.
BLOCK = 64


def align(products: Tensor) -> Tensor:
    """Turns products with distances into products with keys, as a view: nothing is copied.

    Row r of ``products`` [..., C, L] holds the query of row r against L distances that fall (or rise) by one
    per column. Its keys begin ``C - r`` columns in, since each row stands one position further than the last:
    ``aligned[r, c] = products[r, c + C - r]``. In a flat buffer that is a fixed stride of L - 1, so the
    result [..., C, L - 1] is a window on the same numbers. Entries beyond a row's own keys belong to its
    neighbour and must be hidden by the caller. Slow reference: ``score`` in ``tests/reference.py``.
    """
    rows, columns = products.shape[-2:]
    flat = products.flatten(-2)
    return flat.narrow(-1, rows, rows * (columns - 1)).unflatten(-1, (rows, columns - 1))


@dataclass(frozen=True)
class LookAheadGeometry:
    """The look-ahead half of a segment's geometry: memory slots against the K keys that end at the first current token.

    ``index`` [blocks, C + K] names, per block of memory slots, the rows of the encodings; ``attn_mask`` holds
    ``-inf`` where a row may not look, [M, K] or [B, 1, M, K]. ``rising`` [M + 1] names the rows of the encodings for
    the distances 1, 2, ... to the right, by which one operation computes it (``fused_attention.py``); None where that
    would compute more than the blocks do: with a look to both sides, and where most of the memory is out of sight.
    """

    index: Tensor
    attn_mask: Tensor
    keys: int
    rising: Optional[Tensor] = None


@dataclass(frozen=True)
class AttentionGeometry:
    """Masks and encodings that all layers share, of one segment (or of a further chunk of one that is decoded).

    ``encodings`` [S, D] of falling distances, down to 0 or, where the look-ahead needs them, below; the
    distances themselves, [S] int64, where a table has an entry for each; None for absolute positions. ``causal``
    names the rows for T, T-1, ..., 0. ``attn_mask`` [N, T] or [B, 1, N, T] holds ``-inf`` where a token may not
    look; ``visible`` keys, from the first on, it hides from no token.
    """

    encodings: Optional[Tensor]
    causal: slice
    attn_mask: Tensor
    ahead: Optional[LookAheadGeometry]
    visible: int = 0

    def last(self, tokens: int) -> "AttentionGeometry":
        """The same for the last ``tokens`` alone."""
        if tokens == self.attn_mask.size(-2):
            return self
        return replace(self, attn_mask=self.attn_mask[..., -tokens:, :])


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, ``-inf`` elsewhere: added to scores, it costs the backward pass nothing."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def same_document(queries: Tensor, keys: Tensor) -> Tensor:
    """[B, queries] and [B, keys] document numbers -> [B, 1, queries, keys] visibility."""
    return (queries[:, :, None] == keys[:, None, :]).unsqueeze(1)


def causal_visibility(queries: int, keys: int, reach: Optional[int], device: torch.device) -> Tensor:
    """[queries, keys]: the last ``queries`` of ``keys`` tokens see themselves and what is left of them.

    ``reach`` limits the distance to less than itself (``--same-length``).
    """
    at = torch.arange(keys, device=device)
    distance = at[keys - queries :, None] - at
    visible = distance >= 0
    if reach is not None:
        visible &= distance < reach
    return visible


def ahead_visibility(memory: int, keys: int, full: bool, device: torch.device) -> Tensor:
    """[M, K]: memory slot i sees the keys M-K+1..M that lie right of it, or all of them with ``full``."""
    row = torch.arange(memory, device=device)[:, None]
    key = torch.arange(memory - keys + 1, memory + 1, device=device)
    return torch.ones(memory, keys, dtype=torch.bool, device=device) if full else key > row


def ahead_index(memory: int, keys: int, top: int, lowest: int, signed: bool, device: torch.device) -> Tensor:
    """Rows of the encodings (distances ``top`` downwards to ``lowest``) for each block of memory slots.

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
    """Makes the geometry of segments.

    Attributes:
        encoding: how distances are encoded.
        reach: tokens see keys nearer than it (``--same-length``, None: all).
        looks_ahead: whether memory slots attend to their right.
        full: the look-ahead goes to both sides.
    """

    encoding: PositionEncoding
    reach: Optional[int]
    looks_ahead: bool
    full: bool

    def geometry(
        self,
        tokens: int,
        memory: int,
        last_written: int,
        like: Tensor,
        *,
        before: int = 0,
        capacity: Optional[int] = None,
        documents: Optional[Tensor] = None,
    ) -> AttentionGeometry:
        """The geometry of a segment of N ``tokens`` behind M ``memory`` slots.

        Args:
            tokens: N.
            memory: M.
            last_written: A, what entered the memory last.
            like: a tensor whose type and device the masks and encodings take.
            before: tokens of the segment that are cached already, while decoding; no look-ahead then.
            capacity: tokens that a segment that is being decoded can hold: encodings reach that far, for later chunks.
            documents: [B, M + before + N] document numbers, None where each stream is one document.
        """
        keys = memory + before + tokens
        visible = causal_visibility(tokens, keys, self.reach, like.device)
        if documents is not None:
            visible = visible & same_document(documents[:, keys - tokens :], documents)
        top = keys if capacity is None else memory + capacity
        ahead = None
        if self.looks_ahead and memory > 0 and before == 0:
            ahead = self.look_ahead(memory, last_written, top, like, documents)
        mask = hide(visible, like.dtype)
        seen_by_all = keys - tokens if self.reach is None and documents is None else 0
        lowest = -memory if self.looks_ahead and self.encoding.signed else 0
        encodings = self.encoding.encode(top, lowest, like) if before == 0 else None
        return AttentionGeometry(encodings, slice(top - keys, top + 1), mask, ahead, seen_by_all)

    def look_ahead(
        self, memory: int, last_written: int, top: int, like: Tensor, documents: Optional[Tensor]
    ) -> LookAheadGeometry:
        """The look-ahead half: memory slot i sees max(i, M - A) < j <= M (LaMemo, section 3.1, for any A).

        ``top`` is the largest distance that is encoded.
        """
        seen = min(last_written, memory)
        lowest = -memory if self.encoding.signed else 0
        index = ahead_index(memory, seen, top, lowest, self.encoding.signed, like.device)
        visible = ahead_visibility(memory, seen, self.full, like.device)
        if documents is not None:
            span = documents[:, memory - seen + 1 : memory + 1]
            visible = visible & same_document(documents[:, :memory], span)
        rising = None
        if not self.full and 2 * seen >= memory:
            distance = torch.arange(1, memory + 2, device=like.device)
            # The last column belongs to no key: any row serves it.
            rising = top - (-distance if self.encoding.signed else distance).clamp(lowest, top)
        return LookAheadGeometry(index, hide(visible, like.dtype), seen, rising)
