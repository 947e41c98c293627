"""Transformer-XL's memory: the inputs of each layer, first in, first out (arXiv 1901.02860)."""

from torch import Tensor

from .base import Memory, MemoryState, Recall, SegmentRecord


class RecurrenceMemory(Memory):
    """The kind behind ``--memory-type recurrence``. Keeps ``layer{l}`` [B, M, D] for each layer."""

    encodings = ("transformer-xl", "shaw")

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        rows = like.new_zeros(streams, 0, self.dim)
        return MemoryState({f"layer{layer}": rows for layer in range(self.layers)})

    def bottom(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, below: Tensor) -> Recall:
        return Recall(state.tensors[f"layer{layer}"])

    def absorb(self, state: MemoryState, record: SegmentRecord, advance: int) -> MemoryState:
        tensors = {
            name: self.push(state.tensors[name], record.inputs[layer], advance)
            for layer, name in enumerate(state.tensors)
        }
        length = tensors["layer0"].size(1)
        return MemoryState(tensors, length, advance, self.push_documents(state, record, advance))
