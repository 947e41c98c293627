"""How a text is cut into rows and segments: arithmetic alone, no token is read.

A split is one long text of ``total`` tokens. It is cut into rows of equal length, which are read side by side, segment
by segment. Every token is a target exactly once. 11 tokens in 2 rows and segments of 2 tokens, by target index:

    row 0:   0 1 | 2 3 |  4  5
    row 1:   6 7 | 8 9 | 10  pad

>>> layout = Layout.even(11, rows=2, tokens=2)
>>> layout.boundaries, layout.segments, layout.row_length
((0, 2, 4, 6), 3, 6)
>>> layout.scored(0), layout.scored(1)
((0, 6), (6, 11))

With a context window of 1, segments 1 and 2 begin a token earlier and score the same tokens (in brackets: context):

    row 0:   0 1 | (1) 2 3 | (3)  4  5
    row 1:   6 7 | (7) 8 9 | (9) 10  pad

>>> layout = Layout.even(11, rows=2, tokens=2, context=1)
>>> [layout.start(segment) for segment in range(3)]
[0, 1, 3]
>>> [layout.tokens_to_memory(segment) for segment in range(3)]
[1, 2, 3]

With a warm-up of 2, row 1 begins 2 tokens earlier and does not score these, so that it starts with a memory:

    row 0:     0 1 | 2 3 | 4  5 | pad
    row 1:   (4 5) | 6 7 | 8  9 | 10

>>> layout = Layout.even(11, rows=2, tokens=2, warmup=2)
>>> layout.begin(0), layout.begin(1), layout.boundaries
(0, 4, (0, 2, 4, 6, 8))
"""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a text of ``total`` tokens is laid out in rows and segments.

    Attributes:
        total: tokens in the text.
        rows: rows over all ranks; each holds ceil(total / rows) tokens, the last ones what is left.
        boundaries: where segments end, in tokens from a row's beginning, 0 first.
        context: tokens before a segment that it reads once more, without scoring them (``--context-window``).
        warmup: tokens before a row's own that it reads first, without scoring them.
        offset: rotation of the text (``--random-offset``).
    """

    total: int
    rows: int
    boundaries: Sequence[int]
    context: int = 0
    warmup: int = 0
    offset: int = 0

    @staticmethod
    def even(total: int, rows: int, tokens: int, context: int = 0, warmup: int = 0, offset: int = 0) -> "Layout":
        """Segments of ``tokens`` new tokens each; a warm-up ends with a segment, so that the memory is full then."""
        longest = Layout(total, rows, (0,), context, warmup, offset).longest
        first = warmup % tokens if rows > 1 else 0
        boundaries = (0, *range(first or tokens, longest + tokens, tokens))
        return Layout(total, rows, boundaries, context, warmup, offset)

    @property
    def row_length(self) -> int:
        """Tokens that a full row scores."""
        return -(-self.total // self.rows)

    def scored(self, row: int) -> "tuple[int, int]":
        """First token that ``row`` scores, and one past the last."""
        return min(row * self.row_length, self.total), min((row + 1) * self.row_length, self.total)

    @property
    def filled(self) -> int:
        """Rows that hold text: the first ones."""
        return -(-self.total // self.row_length)

    def begin(self, row: int) -> int:
        """First token that ``row`` reads; a row that scores nothing reads nothing."""
        first, end = self.scored(row)
        return max(0, first - self.warmup) if first < end else first

    @property
    def longest(self) -> int:
        """Tokens that the longest row reads, warm-up included."""
        # Full rows read the more the later they begin; behind them comes at most one short row.
        full = self.total // self.row_length
        rows = (full - 1, min(full, self.rows - 1))
        return max(self.scored(row)[1] - self.begin(row) for row in rows)

    @property
    def segments(self) -> int:
        """Segments in a row."""
        return len(self.boundaries) - 1

    def start(self, segment: int) -> int:
        """First token that ``segment`` reads, context included, from its row's beginning."""
        return max(0, self.boundaries[segment] - self.context)

    def context_tokens(self, segment: int) -> int:
        """Tokens that ``segment`` reads as context: they were read before."""
        return self.boundaries[segment] - self.start(segment)

    def columns(self, segment: int) -> int:
        """Tokens that ``segment`` reads: as many on every rank, rows that ended are padded."""
        return min(self.boundaries[segment + 1], self.longest) - self.start(segment)

    def tokens_to_memory(self, segment: int) -> int:
        """Tokens of ``segment`` that enter the memory: those that do not come again as context."""
        if segment + 1 == self.segments:
            return self.columns(segment)
        return self.start(segment + 1) - self.start(segment)


def rotation(total: int, seed: int, epoch: int) -> int:
    """The offset of an epoch, drawn from ``seed``: the same on every rank."""
    return int(np.random.default_rng([seed, epoch]).integers(total))


def rows_for(batch_size: Optional[int], max_tokens: Optional[int], tokens: int) -> int:
    """Rows per rank: the batch size, or as many segments as ``max_tokens`` allows."""
    if batch_size is not None:
        return batch_size
    return 1 if max_tokens is None else max(1, max_tokens // tokens)
