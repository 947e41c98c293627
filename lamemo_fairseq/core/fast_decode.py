"""Single-token decoding: what ``Layer`` computes, without what only whole segments need.

A step reads every weight and every cached key once, so memory traffic is its cost. Here a layer is some fifteen calls
on whole tensors: no geometry, no mask (a new token sees all that is cached), no copies of what is cached. Slow
reference: ``layer.py`` and ``attention.py`` (``tests/core/test_decoding.py`` compares), and behind them
``tests/reference.py``. Letters as in ``softmax.py``; T keys, the new token's own included.
"""

from ctypes import CDLL
from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import decode_kernels
from .decode_kernels import PackedLinear
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

    def __call__(self, x: Tensor, residual: Optional[Tensor] = None, relu: bool = False) -> Tensor:
        """x W^T + b + ``residual`` [n, out], then ReLU where asked for."""
        first, second = (self.bias, None) if residual is None else (residual, self.bias)
        out = x @ self.weight_t if first is None else torch.addmm(first, x, self.weight_t)
        out = out if second is None else out.add_(second)
        return out.relu_() if relu else out


Linear = Union[TransposedLinear, PackedLinear]


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
        content: [H, d], that vector, scaled alike; None with absolute positions.
        position: [H, 1, d], what the position vector is more than it; None with absolute positions.
        out, inner, outer: the output projection and the feed-forward.
        attention_norm, feed_forward_norm: the norms.
        library: compiled functions; None: torch's operations.
    """

    heads: int
    head_dim: int
    pre_norm: bool
    qkv: Linear
    content: Optional[Tensor]
    position: Optional[Tensor]
    out: Linear
    inner: Linear
    outer: Linear
    attention_norm: Norm
    feed_forward_norm: Norm
    library: Optional[CDLL]

    @staticmethod
    def of(layer: Layer, biases: Biases, library: Optional[CDLL]) -> "FastDecodeLayer":
        """A layer's weights."""
        attention, feed = layer.attention, layer.feed_forward
        scale, width = attention.head_dim**-0.5, attention.heads * attention.head_dim
        content, position = biases.left() if attention.table is None else attention.table.left()
        bias = None
        if content is not None:
            bias = F.pad(content.flatten() * scale, (0, 2 * width))
            position = -content if position is None else position - content
            content, position = content * scale, (position * scale).unsqueeze(1)

        def linear(weight: Tensor, bias: Optional[Tensor]) -> Linear:
            return TransposedLinear.of(weight, bias) if library is None else PackedLinear.of(library, weight, bias)

        return FastDecodeLayer(
            attention.heads,
            attention.head_dim,
            layer.normalize_before,
            linear(torch.cat([attention.q_proj.weight * scale, attention.kv_proj.weight]), bias),
            content,
            position,
            linear(attention.out_proj.weight, None),
            linear(feed.fc1.weight, feed.fc1.bias),
            linear(feed.fc2.weight, feed.fc2.bias),
            Norm.of(layer.attention_norm),
            Norm.of(layer.feed_forward_norm),
            library,
        )

    def decode_step(self, x: Tensor, segment: LayerSegment, reach: Optional[int]) -> Tensor:
        """One token's states [B, D] -> [B, D]; what it leaves enters ``segment``. ``reach`` as in positions.

        Slow reference: ``stream_logits`` in ``tests/reference.py``.
        """
        qkv = self.qkv(self.attention_norm(x) if self.pre_norm else x)  # [B, 3 * H * d]
        mixed = self.attend(qkv, segment, reach)
        residual = x + self.read_long_term(qkv, segment) if segment.reads_long_term else x
        h = self.out(mixed, residual)
        if self.pre_norm:
            return self.outer(self.inner(self.feed_forward_norm(h), relu=True), h)
        h = self.attention_norm(h)
        return self.feed_forward_norm(self.outer(self.inner(h, relu=True), h))

    def attend(self, qkv: Tensor, segment: LayerSegment, reach: Optional[int]) -> Tensor:
        """Attention of a token over all keys so far and its own, [B, H * d]; ``qkv`` [B, 3 * H * d], of which key and
        value enter the cache."""
        cache, B, H, d = segment.cache, qkv.size(0), self.heads, self.head_dim
        cache.keys.reserve()
        cache.values.reserve()
        T = cache.keys.length
        first = 0 if reach is None else max(0, T - reach)
        assert cache.keys.tensor is not None
        # Autocast, where it began after the weights were laid out, keeps keys in its own type.
        library = self.library if cache.keys.tensor.dtype == torch.float32 else None
        if library is None:
            scores = self.scores(qkv, cache, first)
        else:
            scores = decode_kernels.scores(library, qkv, cache, self.position, first)
        dtype = softmax_dtype(scores.dtype)
        if segment.stores_attention:
            weights = F.log_softmax(scores, dim=-1, dtype=dtype)
            # Of any key: log p = s - lse.
            torch.sub(scores.select(2, 0), weights.select(2, 0), out=segment.lse.slot().view(H * B, 1))
            weights.exp_()
            mixed = segment.output.slot()  # [B, H, d]
        else:
            weights = F.softmax(scores, dim=-1, dtype=dtype)
            mixed = cache.keys.tensor.new_empty(B, H, d)
        if segment.usage is not None and not segment.reads_long_term:
            used = weights.view(H, B, T - first).mean(0)
            segment.add_usage(F.pad(used, (first, 0)) if first > 0 else used)
        if library is None:
            values = cache.values.flat()[:, :, first:T]  # [H * B, d, T]
            mixed.copy_(torch.bmm(values, weights.to(values.dtype).mT).view(H, B, d).transpose(0, 1))
        else:
            decode_kernels.mix(library, weights, cache, first, mixed)
        return mixed.view(B, H * d)

    def scores(self, qkv: Tensor, cache: Cache, first: int) -> Tensor:
        """Scores [H * B, 1, T - first] by torch's operations; as :func:`decode_kernels.scores`."""
        B, H, d, T = qkv.size(0), self.heads, self.head_dim, cache.keys.length
        assert cache.keys.tensor is not None and cache.values.tensor is not None
        # Heads first: one head's distances serve all streams.
        q, k, v = qkv.view(B, 3, H, d).permute(1, 2, 0, 3).contiguous().unbind(0)  # [H, B, d] each
        cache.keys.tensor[:, :, T - 1] = k
        cache.values.tensor[..., T - 1] = v
        keys = cache.keys.flat()[:, first:T]  # [H * B, T, d]
        q = q.to(keys.dtype)  # autocast leaves sums as wide as the biases
        # Columns are rows transposed: of a contiguous [d, 1] the product of matrix and vector is far slower on a CPU.
        columns = q.view(H * B, 1, d).mT
        if self.position is None:
            return torch.bmm(keys, columns).view(H * B, 1, T - first)
        relative_keys_t, position_scores = cache.relative(self.position)
        end = cache.zero_distance_index + 1
        near = slice(end - (T - first), end)
        scores = torch.baddbmm(position_scores[:, :, near], q, relative_keys_t[:, :, near])  # [H, B, T]
        scores = scores.view(H * B, 1, T - first)
        scores.mT.baddbmm_(keys, columns)  # in place, which autocast does not know
        return scores

    def read_long_term(self, qkv: Tensor, segment: LayerSegment) -> Tensor:
        """What the queries of ``qkv`` [B, 3 * H * d] read [B, D] in a memory that is no keys and values."""
        assert segment.long_term is not None
        q = qkv.view(qkv.size(0), 3, self.heads, self.head_dim)[:, 0]  # [B, H, d]
        q = q if self.content is None else q - self.content
        hidden_states, usage, _ = segment.long_term(q.unsqueeze(2))
        if usage is not None:
            segment.add_usage(usage)
        return hidden_states.squeeze(1)


def fast_decode_layers(layers: Iterable[nn.Module], biases: Biases, x: Tensor, fused: bool) -> List[FastDecodeLayer]:
    """All layers' weights as steps read them, given a token's embeddings ``x`` [B, D].

    Here it is chosen whether compiled code computes them (``fused``, and :func:`decode_kernels.kernels_for`).
    """
    library = decode_kernels.kernels_for(x) if fused else None
    return [FastDecodeLayer.of(layer, biases, library) for layer in layers if isinstance(layer, Layer)]
