"""Incremental decoding: the state of a segment that is still being written.

The memory is refreshed once per segment, when its first token is known; all of the segment's tokens read the same
refreshed slots. So a token costs its own projections and one row of attention, and the log-probabilities are those
of the segment read at once. Slow reference: ``stream_logits`` in
``tests/reference.py``. Letters as in ``softmax.py``.
"""

from dataclasses import replace
from typing import List, Optional

import torch
from torch import Tensor

from .attention import Cache
from .documents import Tracker
from .fast_decode import FastDecodeLayer
from .kv_cache import Buffer
from .memory import Memory, MemoryState, SegmentRecord
from .softmax import Attention, full_precision


def is_identity(order: Tensor, streams: int) -> bool:
    """Whether ``order`` [B'] leaves B ``streams`` where they are."""
    return order.numel() == streams and bool(
        (order == torch.arange(streams, dtype=order.dtype, device=order.device)).all()
    )


class DecodingSegment:
    """A segment while it is decoded: the memory that it began with, key-value caches, and what its tokens left.

    Args:
        state: the memory before the segment.
        capacity: N, tokens that the segment holds when full.
        layers: L.
        tracker: numbers the documents that are read; None where each stream is one document.
    """

    def __init__(self, state: MemoryState, capacity: int, layers: int, tracker: Optional[Tracker] = None) -> None:
        self.capacity, self.layers, self.tracker = capacity, layers, tracker
        self.tokens_seen = 0  # of the whole text
        self.weights: Optional[List[FastDecodeLayer]] = None  # as single tokens read them
        self.begin(state)

    def begin(self, state: MemoryState) -> None:
        """Empty, behind ``state``."""
        self.state, self.length = state, 0
        self.caches = [Cache(state.length + self.capacity) for _ in range(self.layers)]
        self.documents = Buffer(self.capacity, dim=1)  # [B, N], unless each stream is one document
        self.embeddings = Buffer(self.capacity, dim=1)  # [B, N, D]
        self.inputs = [Buffer(self.capacity, dim=1) for _ in range(self.layers)]
        # Attention of the refreshed memory, then of the segment: [B, H, M + N, d] and [B, H, M + N].
        total = state.length + self.capacity
        self.outputs: List[Buffer] = [Buffer(total, dim=2) for _ in range(self.layers)]
        self.lses: List[Buffer] = [Buffer(total, dim=2) for _ in range(self.layers)]
        self.stores_attention: List[bool] = [False] * self.layers
        self.usage: List[Optional[Tensor]] = [None] * self.layers
        self.cached = True  # whether what a token reads is all in the caches

    @property
    def is_full(self) -> bool:
        """Whether the next token belongs to the next segment."""
        return self.length == self.capacity

    def append(self, record: SegmentRecord) -> None:
        """Adds what a chunk of n tokens left."""
        count = record.embeddings.size(1)
        self.embeddings.append(record.embeddings)
        for layer, (hidden_states, attention_state) in enumerate(zip(record.inputs, record.attention_state)):
            self.inputs[layer].append(hidden_states)
            if attention_state is not None:
                self.stores_attention[layer] = True
                self.outputs[layer].append(attention_state.output)
                self.lses[layer].append(attention_state.lse)
        for layer, usage in enumerate(record.usage):
            if usage is not None:
                so_far = self.usage[layer]
                # A later chunk has more keys; what is summed is the usage of the memory, which comes first.
                self.usage[layer] = usage if so_far is None else so_far + usage[:, : so_far.size(1)]
        self.length += count
        self.tokens_seen += count

    def step(self, x: Tensor, weights: List[FastDecodeLayer], reach: Optional[int]) -> Tensor:
        """One further token through all layers: embeddings [B, D] -> features [B, D]. ``reach`` as in positions."""
        self.embeddings.slot().copy_(x)
        for number, layer in enumerate(weights):
            self.inputs[number].slot().copy_(x)
            x = layer.decode_step(
                x, self.caches[number], reach, self.outputs[number], self.lses[number], self.stores_attention[number]
            )
        self.length += 1
        self.tokens_seen += 1
        return x

    def record(self) -> SegmentRecord:
        """The segment so far, as if it had been read at once."""
        attention_state: List[Optional[Attention]] = [
            Attention(output.filled(), lse.filled()) if keep else None
            for output, lse, keep in zip(self.outputs, self.lses, self.stores_attention)
        ]
        documents = None if self.tracker is None else self.documents.filled()
        inputs = [hidden_states.filled() for hidden_states in self.inputs]
        return SegmentRecord(self.embeddings.filled(), inputs, attention_state, self.usage, documents=documents)

    def close(self, memory: Memory) -> None:
        """The segment enters the memory, and the next begins."""
        with full_precision(self.embeddings.filled()):
            state = memory.update(self.state, self.record(), self.length)
        self.begin(state if self.tracker is None else replace(state, last=self.tracker.last))

    def reorder(self, order: Tensor) -> None:
        """Streams in another order: ``order`` [B'] of stream numbers; the identity costs nothing."""
        if self.embeddings.tensor is not None and not is_identity(order, self.embeddings.tensor.size(0)):
            self.select(order)

    def select(self, order: Tensor) -> None:
        """Streams in another order, or some of them, or some more than once."""
        self.state = self.state.select(order)
        if self.tracker is not None:
            self.tracker.select(order)
        for buffer in [self.documents, self.embeddings, *self.inputs, *self.outputs, *self.lses]:
            buffer.select(order)
        self.usage = [None if usage is None else usage.index_select(0, order) for usage in self.usage]
        for cache in self.caches:
            cache.select(order)
