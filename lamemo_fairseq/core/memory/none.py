"""No memory: each segment is read alone."""

from torch import Tensor

from .base import Memory, MemoryState, Recall, SegmentRecord


class NoMemory(Memory):
    """The kind behind ``--memory-type none``."""

    encodings = ("absolute", "transformer-xl")

    @property
    def span(self) -> int:
        return 0

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        return MemoryState({})

    def bottom(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, below: Tensor) -> Recall:
        return Recall(below)

    def absorb(self, state: MemoryState, record: SegmentRecord, advance: int) -> MemoryState:
        return state
