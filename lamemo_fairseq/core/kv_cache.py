"""Preallocated buffers for incremental decoding, filled from the front."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .encodings import Distances


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
        self.flattened: Optional[Tensor] = None

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
        self.reserve()
        assert self.tensor is not None
        return self.tensor.select(self.dim, self.length - 1)

    def reserve(self) -> None:
        """Counts the next entry as filled: whoever asks for this writes it."""
        assert self.tensor is not None and self.length < self.capacity
        self.length += 1

    def flat(self) -> Tensor:
        """The whole of a [H, B, ., .] tensor, heads and streams as one dimension."""
        if self.flattened is None:
            assert self.tensor is not None
            self.flattened = self.tensor.flatten(0, 1)
        return self.flattened

    def filled(self) -> Tensor:
        """Everything so far, as a view."""
        assert self.tensor is not None
        return self.tensor.narrow(self.dim, 0, self.length)

    def select(self, order: Tensor) -> None:
        """Streams in another order: ``order`` [B'] of stream numbers."""
        if self.tensor is not None:
            self.tensor, self.flattened = self.tensor.index_select(self.streams, order), None


class Cache:
    """One layer's key-value cache while a segment is decoded: the memory's, then one by one the segment's own.

    ``distances`` are the projected encodings, which depend on weights alone; row ``zero_distance_index`` is that of
    distance 0.
    """

    def __init__(self, capacity: int) -> None:
        # [H, B, capacity, d] and [H, B, d, capacity]: for a single query both are a matrix times a vector, which reads
        # memory as fast as it can be read; heads come first, since one head's distances serve all streams.
        self.keys, self.values = Buffer(capacity, dim=2, streams=1), Buffer(capacity, dim=3, streams=1)
        self.distances: Optional[Distances] = None
        self.zero_distance_index = capacity
        self.relative_keys: Optional[Tuple[Tensor, Tensor]] = None

    def append(self, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor]:
        """Takes in keys and values [B, H, n, d]; returns all so far, [B, H, T, d], as views."""
        held = self.values.append(values.permute(1, 0, 3, 2)).permute(1, 0, 3, 2)
        return self.keys.append(keys.transpose(0, 1)).transpose(0, 1), held

    def relative(self, position: Tensor) -> Tuple[Tensor, Tensor]:
        """The distances' keys as single tokens read them, [H, d, S], down to distance 0, and what every query scores on
        them [H, 1, S]: their products with the vector ``position`` [H, 1, d], and the distances' own biases."""
        if self.relative_keys is None:
            assert self.distances is not None
            H, _, d = position.shape
            end = self.zero_distance_index + 1
            keys_t = self.distances.keys[:end].unflatten(-1, (H, d)).permute(1, 2, 0).contiguous()
            scores = torch.bmm(position.to(keys_t.dtype), keys_t)
            if self.distances.bias is not None:
                scores = scores + self.distances.bias[:end].t().unsqueeze(1) * d**-0.5
            self.relative_keys = keys_t, scores.contiguous()
        return self.relative_keys

    def select(self, order: Tensor) -> None:
        """Streams in another order."""
        self.keys.select(order)
        self.values.select(order)
