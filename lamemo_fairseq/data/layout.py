"""How a text is cut into streams and segments: arithmetic alone, no token is read.

A split is one long text of ``total`` tokens. It is cut into streams of equal length, which are read side by side, each
as a row of the batch, segment by segment. Every token is a target exactly once. 11 tokens in 2 streams and segments of
2 tokens, by target index:

    stream 0:   0 1 | 2 3 |  4  5
    stream 1:   6 7 | 8 9 | 10  pad

>>> layout = Layout.even(11, streams=2, tokens=2)
>>> layout.boundaries, layout.segments, layout.stream_length
((0, 2, 4, 6), 3, 6)
>>> layout.scored(0), layout.scored(1)
((0, 6), (6, 11))

With a context window of 1, segments 1 and 2 begin a token earlier and score the same tokens (in brackets: context):

    stream 0:   0 1 | (1) 2 3 | (3)  4  5
    stream 1:   6 7 | (7) 8 9 | (9) 10  pad

>>> layout = Layout.even(11, streams=2, tokens=2, context=1)
>>> [layout.start(segment) for segment in range(3)]
[0, 1, 3]
>>> [layout.tokens_to_memory(segment) for segment in range(3)]
[1, 2, 3]

With a warm-up of 2, stream 1 begins 2 tokens earlier and does not score these, so that it starts with a memory:

    stream 0:     0 1 | 2 3 | 4  5 | pad
    stream 1:   (4 5) | 6 7 | 8  9 | 10

>>> layout = Layout.even(11, streams=2, tokens=2, warmup=2)
>>> layout.begin(0), layout.begin(1), layout.boundaries
(0, 4, (0, 2, 4, 6, 8))
"""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a text of ``total`` tokens is laid out in streams and segments.

    Attributes:
        total: tokens in the text.
        streams: streams over all ranks; each holds ceil(total / streams) tokens, the last ones what is left.
        boundaries: where segments end, in tokens from a stream's beginning, 0 first.
        context: tokens before a segment that it reads once more, without scoring them (``--context-window``).
        warmup: tokens before a stream's own that it reads first, without scoring them.
        offset: rotation of the text (``--random-offset``).
    """

    total: int
    streams: int
    boundaries: Sequence[int]
    context: int = 0
    warmup: int = 0
    offset: int = 0

    @staticmethod
    def even(total: int, streams: int, tokens: int, context: int = 0, warmup: int = 0, offset: int = 0) -> "Layout":
        """Segments of ``tokens`` new tokens each; a warm-up ends with a segment, so that the memory is full then."""
        longest = Layout(total, streams, (0,), context, warmup, offset).longest
        first = warmup % tokens if streams > 1 else 0
        boundaries = (0, *range(first or tokens, longest + tokens, tokens))
        return Layout(total, streams, boundaries, context, warmup, offset)

    @property
    def stream_length(self) -> int:
        """Tokens that a full stream scores."""
        return -(-self.total // self.streams)

    def scored(self, stream: int) -> "tuple[int, int]":
        """First token that ``stream`` scores, and one past the last."""
        return min(stream * self.stream_length, self.total), min((stream + 1) * self.stream_length, self.total)

    @property
    def filled(self) -> int:
        """Streams that hold text: the first ones."""
        return -(-self.total // self.stream_length)

    def begin(self, stream: int) -> int:
        """First token that ``stream`` reads; a stream that scores nothing reads nothing."""
        first, end = self.scored(stream)
        return max(0, first - self.warmup) if first < end else first

    @property
    def longest(self) -> int:
        """Tokens that the longest stream reads, warm-up included."""
        # Full streams read the more the later they begin; behind them comes at most one short stream.
        full = self.total // self.stream_length
        streams = (full - 1, min(full, self.streams - 1))
        return max(self.scored(stream)[1] - self.begin(stream) for stream in streams)

    @property
    def segments(self) -> int:
        """Segments in a stream."""
        return len(self.boundaries) - 1

    def start(self, segment: int) -> int:
        """First token that ``segment`` reads, context included, from its stream's beginning."""
        return max(0, self.boundaries[segment] - self.context)

    def context_tokens(self, segment: int) -> int:
        """Tokens that ``segment`` reads as context: they were read before."""
        return self.boundaries[segment] - self.start(segment)

    def columns(self, segment: int) -> int:
        """Tokens that ``segment`` reads: as many on every rank, streams that ended are padded."""
        return min(self.boundaries[segment + 1], self.longest) - self.start(segment)

    def tokens_to_memory(self, segment: int) -> int:
        """Tokens of ``segment`` that enter the memory: those that do not come again as context."""
        if segment + 1 == self.segments:
            return self.columns(segment)
        return self.start(segment + 1) - self.start(segment)


def rotation(total: int, seed: int, epoch: int) -> int:
    """The offset of an epoch, drawn from ``seed``: the same on every rank."""
    return int(np.random.default_rng([seed, epoch]).integers(total))


def streams_per_rank(batch_size: Optional[int], max_tokens: Optional[int], tokens: int) -> int:
    """Streams per rank: the batch size, or as many segments as ``max_tokens`` allows."""
    if batch_size is not None:
        return batch_size
    return 1 if max_tokens is None else max(1, max_tokens // tokens)
