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

from .documents import Tracker
from .fast_decode import FastDecodeLayer, LayerSegment
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
        self.parts = [LayerSegment(state.length, self.capacity) for _ in range(self.layers)]
        self.documents = Buffer(self.capacity, dim=1)  # [B, N], unless each stream is one document
        # What went into each layer, the first one's being the embeddings: [N, L, B, D], a token's together.
        self.inputs = Buffer(self.capacity, dim=0, streams=2)

    @property
    def is_full(self) -> bool:
        """Whether the next token belongs to the next segment."""
        return self.length == self.capacity

    def append(self, record: SegmentRecord) -> None:
        """Adds what a chunk of n tokens left."""
        count = record.embeddings.size(1)
        self.inputs.append(torch.stack(record.inputs).permute(2, 0, 1, 3))
        for layer, part in enumerate(self.parts):
            attention_state, usage = record.attention_state[layer], record.usage[layer]
            if attention_state is not None:
                part.stores_attention = True
                part.output.append(attention_state.output.permute(2, 0, 1, 3))
                part.lse.append(attention_state.lse.permute(2, 1, 0))
            if usage is not None:
                part.add_usage(usage)
        self.length += count
        self.tokens_seen += count

    @torch.no_grad()
    def step(self, x: Tensor, weights: List[FastDecodeLayer], reach: Optional[int], memory: Memory) -> Tensor:
        """One further token through all layers: embeddings [B, D] -> features [B, D], which carry no gradient.

        ``reach`` as in positions.
        """
        inputs = []
        for number, (layer, part) in enumerate(zip(weights, self.parts)):
            inputs.append(x)
            if part.reads_long_term and part.long_term is None:
                part.long_term = memory.decoding_reader(self.state, number, x)
            x = layer.decode_step(x, part, reach)
        torch.stack(inputs, out=self.inputs.slot())
        self.length += 1
        self.tokens_seen += 1
        return x

    def record(self) -> SegmentRecord:
        """The segment so far, as if it had been read at once."""
        attention_state: List[Optional[Attention]] = [
            Attention(part.output.filled().permute(1, 2, 0, 3), part.lse.filled().permute(2, 1, 0))
            if part.stores_attention
            else None
            for part in self.parts
        ]
        documents = None if self.tracker is None else self.documents.filled()
        inputs = list(self.inputs.filled().permute(1, 2, 0, 3).unbind(0))  # [B, n, D] each
        usage = [part.usage for part in self.parts]
        return SegmentRecord(inputs[0], inputs, attention_state, usage, documents=documents)

    def close(self, memory: Memory) -> None:
        """The segment enters the memory, and the next begins."""
        record = self.record()
        with full_precision(record.embeddings):
            state = memory.update(self.state, record, self.length)
        self.begin(state if self.tracker is None else replace(state, last=self.tracker.last))

    def reorder(self, order: Tensor) -> None:
        """Streams in another order: ``order`` [B'] of stream numbers; the identity costs nothing."""
        if self.inputs.tensor is not None and not is_identity(order, self.inputs.tensor.size(2)):
            self.select(order)

    def select(self, order: Tensor) -> None:
        """Streams in another order, or some of them, or some more than once."""
        self.state = self.state.select(order)
        if self.tracker is not None:
            self.tracker.select(order)
        for buffer in (self.documents, self.inputs):
            buffer.select(order)
        for part in self.parts:
            part.select(order)
