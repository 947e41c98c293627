"""Preallocated buffers for incremental decoding, filled from the front."""

from typing import Optional

from torch import Tensor


class Buffer:
    """A tensor that grows along one dimension without being copied.

    Args:
        capacity: entries it can hold.
        dim: the dimension that grows.
        streams: the streams' dimension.
    """

    def __init__(self, capacity: int, dim: int, streams: int = 0) -> None:
        self.capacity, self.dim, self.streams, self.length = capacity, dim, streams, 0
        self.tensor: Optional[Tensor] = None

    def append(self, entries: Tensor) -> Tensor:
        """Takes in ``entries``; returns everything so far, as a view."""
        if self.tensor is None:
            shape = list(entries.shape)
            shape[self.dim] = self.capacity
            self.tensor = entries.new_empty(shape)
        count = entries.size(self.dim)
        assert self.length + count <= self.capacity
        self.tensor.narrow(self.dim, self.length, count).copy_(entries)
        self.length += count
        return self.tensor.narrow(self.dim, 0, self.length)

    def slot(self) -> Tensor:
        """The next entry, to be written; it counts as filled from now on."""
        assert self.tensor is not None and self.length < self.capacity
        self.length += 1
        return self.tensor.select(self.dim, self.length - 1)

    def flat(self) -> Tensor:
        """The whole of a [H, B, ., .] tensor, heads and streams as one dimension."""
        assert self.tensor is not None
        return self.tensor.flatten(0, 1)

    def filled(self) -> Tensor:
        """Everything so far, as a view."""
        assert self.tensor is not None
        return self.tensor.narrow(self.dim, 0, self.length)

    def select(self, order: Tensor) -> None:
        """Streams in another order: ``order`` [B'] of stream numbers."""
        if self.tensor is not None:
            self.tensor = self.tensor.index_select(self.streams, order)
