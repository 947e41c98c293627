"""Single-token decoding: what ``Layer`` computes, without what only whole segments need.

A step reads every weight and every cached key once, so memory traffic is its cost. Here a layer is some fifteen calls
on whole tensors: no geometry, no mask (a new token sees all that is cached), no copies of what is cached. Slow
reference: ``layer.py`` and ``attention.py`` (``tests/core/test_decoding.py`` compares), and behind them
``tests/reference.py``. Letters as in ``softmax.py``; T keys, the new token's own included.
"""

from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encodings import Biases
from .kv_cache import Buffer, Cache
from .layer import Layer
from .memory.base import LongTermOutput
from .softmax import softmax_dtype


class LayerSegment:
    """One layer's part of a segment that is decoded.

    Args:
        slots: M, of the memory.
        capacity: N, tokens of the segment when full.

    Attributes:
        cache: keys and values of memory and segment.
        output, lse: attention of the refreshed memory, then of the segment, [M + N, B, H, d] and [M + N, H, B]: a
            token's lie together. Empty unless ``stores_attention``.
        usage: how much was read of each part of the memory [B, .], or None where nobody asks.
        reads_long_term: whether there is a memory that is no keys and values.
        long_term: what single tokens read it by; None until one does.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.cache = Cache(slots + capacity)
        self.output, self.lse = Buffer(slots + capacity, dim=0, streams=1), Buffer(slots + capacity, dim=0, streams=2)
        self.stores_attention = self.reads_long_term = False
        self.usage: Optional[Tensor] = None
        self.long_term: Optional[Callable[[Tensor], LongTermOutput]] = None

    def add_usage(self, usage: Tensor) -> None:
        """Adds what further tokens read: the memory comes first, what stands behind it does not count."""
        self.usage = usage if self.usage is None else self.usage + usage[:, : self.usage.size(1)]

    def select(self, order: Tensor) -> None:
        """Streams in another order."""
        for buffer in (self.output, self.lse):
            buffer.select(order)
        self.cache.select(order)
        self.usage = None if self.usage is None else self.usage.index_select(0, order)
        self.long_term = None  # made anew from the state


@dataclass(frozen=True)
class TransposedLinear:
    """x W^T + b for a few rows x [n, in] -> [n, out], with W^T [in, out] and b [out] or None.

    Products with few rows read that faster than W on a CPU; a GPU reads both alike, so nothing is copied there.
    """

    weight_t: Tensor
    bias: Optional[Tensor]

    @staticmethod
    def of(weight: Tensor, bias: Optional[Tensor]) -> "TransposedLinear":
        """The layer of ``weight`` [out, in]."""
        return TransposedLinear(weight.mT.contiguous() if weight.device.type == "cpu" else weight.mT, bias)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight_t if self.bias is None else torch.addmm(self.bias, x, self.weight_t)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` [n, out] + x W^T + b."""
        out = torch.addmm(residual, x, self.weight_t)
        return out if self.bias is None else out.add_(self.bias)


@dataclass(frozen=True)
class Norm:
    """A layer norm without the module's detour."""

    shape: List[int]
    weight: Tensor
    bias: Tensor
    eps: float

    @staticmethod
    def of(norm: nn.LayerNorm) -> "Norm":
        """A module's."""
        return Norm(list(norm.normalized_shape), norm.weight, norm.bias, norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class FastDecodeLayer:
    """One layer's weights in the layout that single-token decoding reads.

    Attributes:
        heads, head_dim: H and d.
        pre_norm: norms before the projections, bare residuals.
        qkv: D -> 3 * H * d, queries scaled by 1 / sqrt(d), the content vector added to them.
        content: [H, 1, d], that vector, scaled alike; None with absolute positions.
        position: [H, 1, d], what the position vector is more than it; None with absolute positions.
        out, inner, outer: the output projection and the feed-forward.
        attention_norm, feed_forward_norm: the norms.
    """

    heads: int
    head_dim: int
    pre_norm: bool
    qkv: TransposedLinear
    content: Optional[Tensor]
    position: Optional[Tensor]
    out: TransposedLinear
    inner: TransposedLinear
    outer: TransposedLinear
    attention_norm: Norm
    feed_forward_norm: Norm

    @staticmethod
    def of(layer: Layer, biases: Biases) -> "FastDecodeLayer":
        """A layer's weights."""
        attention, feed = layer.attention, layer.feed_forward
        scale, width = attention.head_dim**-0.5, attention.heads * attention.head_dim
        content, position = biases.left() if attention.table is None else attention.table.left()
        bias = None
        if content is not None:
            bias = F.pad(content.flatten() * scale, (0, 2 * width))
            position = -content if position is None else position - content
            content, position = (content * scale).unsqueeze(1), (position * scale).unsqueeze(1)
        return FastDecodeLayer(
            attention.heads,
            attention.head_dim,
            layer.normalize_before,
            TransposedLinear.of(torch.cat([attention.q_proj.weight * scale, attention.kv_proj.weight]), bias),
            content,
            position,
            TransposedLinear.of(attention.out_proj.weight, None),
            TransposedLinear.of(feed.fc1.weight, feed.fc1.bias),
            TransposedLinear.of(feed.fc2.weight, feed.fc2.bias),
            Norm.of(layer.attention_norm),
            Norm.of(layer.feed_forward_norm),
        )

    def decode_step(self, x: Tensor, segment: LayerSegment, reach: Optional[int]) -> Tensor:
        """One token's states [B, D] -> [B, D]; what it leaves enters ``segment``. ``reach`` as in positions.

        Slow reference: ``stream_logits`` in ``tests/reference.py``.
        """
        mixed, q = self.attend(self.attention_norm(x) if self.pre_norm else x, segment, reach)
        residual = x + self.read_long_term(q, segment) if segment.reads_long_term else x
        h = self.out.add_to(residual, mixed)
        if self.pre_norm:
            return self.outer.add_to(h, self.inner(self.feed_forward_norm(h)).relu_())
        h = self.attention_norm(h)
        return self.feed_forward_norm(self.outer.add_to(h, self.inner(h).relu_()))

    def attend(self, h: Tensor, segment: LayerSegment, reach: Optional[int]) -> Tuple[Tensor, Tensor]:
        """Attention of a token's ``h`` [B, D] over all keys so far and its own, [B, H * d]; and its queries
        [H, B, d], the content vector in them."""
        B, H, d = h.size(0), self.heads, self.head_dim
        # Heads first: one head's distances serve all streams.
        q, k, v = self.qkv(h).view(B, 3, H, d).permute(1, 2, 0, 3).contiguous().unbind(0)  # [H, B, d] each
        cache = segment.cache
        cache.keys.slot().copy_(k)
        cache.values.slot().copy_(v)
        T = cache.keys.length
        first = 0 if reach is None else max(0, T - reach)
        keys = cache.keys.flat()[:, first:T]  # [H * B, T, d]
        q = q.to(keys.dtype)  # autocast leaves sums as wide as the biases
        scores = self.scores(q, keys, cache, T - first)
        dtype = softmax_dtype(scores.dtype)
        if segment.stores_attention:
            weights = F.log_softmax(scores, dim=-1, dtype=dtype)
            # Of any key: log p = s - lse.
            torch.sub(scores.select(2, 0), weights.select(2, 0), out=segment.lse.slot().view(H * B, 1))
            weights.exp_()
        else:
            weights = F.softmax(scores, dim=-1, dtype=dtype)
        if segment.usage is not None and not segment.reads_long_term:
            used = weights.view(H, B, T - first).mean(0)
            segment.add_usage(F.pad(used, (first, 0)) if first > 0 else used)
        values = cache.values.flat()[:, :, first:T]  # [H * B, d, T]
        mixed = torch.bmm(values, weights.to(values.dtype).mT).view(H, B, d).transpose(0, 1)
        if segment.stores_attention:
            mixed = segment.output.slot().copy_(mixed)
        return mixed.reshape(B, H * d), q

    def scores(self, q: Tensor, keys: Tensor, cache: Cache, count: int) -> Tensor:
        """Scores [H * B, 1, T] of queries [H, B, d] and the last T = ``count`` keys [H * B, T, d]."""
        H, B, d = q.shape
        # Columns are rows transposed: of a contiguous [d, 1] the product of matrix and vector is far slower on a CPU.
        columns = q.view(H * B, 1, d).mT
        if self.position is None:
            return torch.bmm(keys, columns).view(H * B, 1, count)
        relative_keys_t, position_scores = cache.relative(self.position)
        end = cache.zero_distance_index + 1
        near = slice(end - count, end)
        scores = torch.baddbmm(position_scores[:, :, near], q, relative_keys_t[:, :, near])  # [H, B, T]
        scores = scores.view(H * B, 1, count)
        scores.mT.baddbmm_(keys, columns)  # in place, which autocast does not know
        return scores

    def read_long_term(self, q: Tensor, segment: LayerSegment) -> Tensor:
        """What the queries [H, B, d] read [B, D] in a memory that is no keys and values."""
        assert segment.long_term is not None
        q = q if self.content is None else q - self.content
        hidden_states, usage, _ = segment.long_term(q.transpose(0, 1).unsqueeze(2))
        if usage is not None:
            segment.add_usage(usage)
        return hidden_states.squeeze(1)


def fast_decode_layers(layers: Iterable[nn.Module], biases: Biases) -> List[FastDecodeLayer]:
    """All layers' weights as steps read them."""
    return [FastDecodeLayer.of(layer, biases) for layer in layers if isinstance(layer, Layer)]
