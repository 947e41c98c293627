"""No memory: each segment is read by itself. Slow reference: ``segment`` in ``tests/reference.py``."""

from torch import Tensor

from .base import LayerMemory, Memory, MemoryState, SegmentRecord


class NoMemory(Memory):
    """The kind behind ``--memory-type none``."""

    name = "none"
    encodings = ("absolute", "transformer-xl")

    @property
    def span(self) -> int:
        return 0

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        return MemoryState({})

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        return LayerMemory(memory_hidden)

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        return state
