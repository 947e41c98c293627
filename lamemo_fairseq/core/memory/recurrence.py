"""Transformer-XL's segment recurrence: the inputs of each layer, first in, first out (arXiv 1901.02860).

Slow reference: ``segment`` in ``tests/reference.py``.
"""

from torch import Tensor

from .base import LayerMemory, Memory, MemoryState, SegmentRecord


class RecurrenceMemory(Memory):
    """The kind behind ``--memory-type recurrence``. Keeps ``layer{l}`` [B, M, D] for each layer."""

    name = "recurrence"
    encodings = ("transformer-xl", "shaw")

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        slots = like.new_zeros(streams, 0, self.dim)
        return MemoryState({f"layer{layer}": slots for layer in range(self.layers)})

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        return LayerMemory(state.tensors[f"layer{layer}"])

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        tensors = {
            name: self.push(state.tensors[name], record.inputs[layer], tokens_to_memory)
            for layer, name in enumerate(state.tensors)
        }
        length = tensors["layer0"].size(1)
        return MemoryState(tensors, length, tokens_to_memory, self.push_documents(state, record, tokens_to_memory))
