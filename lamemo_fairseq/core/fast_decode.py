"""Single-token decoding: what ``Layer`` computes, without what only whole segments need.

A step reads every weight and every cached key once, so memory traffic is its cost. Here a layer is some twenty calls
on whole tensors: no geometry, no mask (a new token sees all that is cached), no copies of what is cached; queries, keys
and values come from one product, head by head, as attention reads them. Slow reference: ``layer.py`` and
``attention.py`` (``tests/core/test_decoding.py`` compares), and behind them ``tests/reference.py``. Letters as in
``softmax.py``; T keys, the new token's own included.
"""

from dataclasses import dataclass
from typing import Iterable, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Cache
from .encodings import Biases
from .kv_cache import Buffer
from .layer import Layer
from .softmax import softmax_dtype


def transposed(weight: Tensor) -> Tensor:
    """Weights [.., out, in] as [.., in, out]. Products with few rows read that faster on a CPU; a GPU reads both."""
    return weight.mT.contiguous() if weight.device.type == "cpu" else weight.mT


def ffn_shards(inner: int, device: torch.device) -> int:
    """Into how many the feed-forward's width is cut: a CPU gives each core its own part of a product with few rows."""
    return next(count for count in (4, 2, 1) if inner % count == 0) if device.type == "cpu" else 1


@dataclass(frozen=True)
class FastDecodeLayer:
    """One layer's weights in the layout that single-token decoding reads.

    Attributes:
        layer: whose weights.
        qkv: [3 * H, D, d], queries scaled by 1 / sqrt(d).
        vectors: [2, H, 1, d], content and position vectors towards the past, scaled alike; None with absolute
            positions.
        out: [H * d, D].
        inner, inner_bias: the feed-forward's first product in P parts, [P, D, F / P] and [P, 1, F / P].
        outer, outer_bias: its second, [P, F / P, D] and [P, 1, D], whose parts are summed.
    """

    layer: Layer
    qkv: Tensor
    vectors: Optional[Tensor]
    out: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor

    @staticmethod
    def of(layer: Layer, biases: Biases) -> "FastDecodeLayer":
        """A layer's weights."""
        attention, scale = layer.attention, layer.attention.head_dim**-0.5
        vectors = None
        if attention.r_proj is not None:
            content, position = biases.left()
            assert content is not None and position is not None
            vectors = torch.stack([content, position]).unsqueeze(2) * scale
        projections = torch.cat([attention.q_proj.weight * scale, attention.kv_proj.weight])  # [3 * H * d, D]
        feed = layer.feed_forward
        P = ffn_shards(feed.fc1.out_features, feed.fc1.weight.device)
        return FastDecodeLayer(
            layer,
            transposed(projections.unflatten(0, (3 * attention.heads, attention.head_dim))),
            vectors,
            transposed(attention.out_proj.weight),
            torch.stack([transposed(weight) for weight in feed.fc1.weight.chunk(P)]),
            feed.fc1.bias.view(P, 1, -1),
            torch.stack([transposed(weight) for weight in feed.fc2.weight.chunk(P, dim=1)]),
            (feed.fc2.bias / P).expand(P, 1, -1),
        )

    def decode_step(
        self, x: Tensor, cache: Cache, reach: Optional[int], output: Buffer, lse: Buffer, keep: bool
    ) -> Tensor:
        """One token's states [B, D] -> [B, D]; its key and value enter ``cache``, and if ``keep`` its attention
        enters ``output`` and ``lse``. Slow reference: ``stream_logits`` in ``tests/reference.py``."""
        layer, pre_norm = self.layer, self.layer.normalize_before
        B, H, d = x.size(0), layer.attention.heads, layer.attention.head_dim
        h = normalize(layer.attention_norm, x) if pre_norm else x
        qkv = torch.bmm(h.expand(3 * H, *h.shape), self.qkv)  # [3 * H, B, d]
        q = qkv[:H]
        cache.keys.slot().copy_(qkv[H : 2 * H])
        cache.values.slot().copy_(qkv[2 * H :])
        T = cache.keys.length
        first = 0 if reach is None else max(0, T - reach)
        keys = cache.keys.flat()[:, first:T]  # [H * B, T, d]
        if self.vectors is None:
            scores = torch.bmm(keys, q.view(H * B, 1, d).mT).view(H * B, 1, T - first)
        else:
            # Autocast leaves the sum as wide as the vectors, and knows no product that is added in place.
            content, position = (q + self.vectors).to(keys.dtype).unbind(0)  # [H, B, d] each
            end = cache.zero_distance_index + 1
            R = cache.relative_keys_t()[:, :, end - T + first : end]  # [H, d, T]
            scores = torch.bmm(position, R).view(H * B, 1, T - first)
            scores.mT.baddbmm_(keys, content.view(H * B, 1, d).mT)
        weights = F.softmax(scores, dim=-1, dtype=softmax_dtype(scores.dtype))
        values = cache.values.flat()[:, :, first:T]  # [H * B, d, T]
        # Columns are rows transposed: of a contiguous [T, 1] the product of matrix and vector is ten times as slow.
        mixed = torch.bmm(values, weights.to(x.dtype).mT).view(H, B, d).transpose(0, 1)
        if keep:
            output.slot().copy_(mixed)
            # As in softmax.attend: p = exp(s - lse), read off at the largest weight.
            top = scores.amax(-1).to(weights.dtype) - weights.amax(-1).log()
            lse.slot().copy_(top.view(H, B).t())
        h = torch.addmm(x, mixed.reshape(B, H * d), self.out)
        if pre_norm:
            return self.feed(normalize(layer.feed_forward_norm, h), h)
        h = normalize(layer.attention_norm, h)
        return normalize(layer.feed_forward_norm, self.feed(h, h))

    def feed(self, h: Tensor, residual: Tensor) -> Tensor:
        """``residual`` [B, D] and the feed-forward of ``h`` [B, D]."""
        inner = torch.baddbmm(self.inner_bias, h.expand(self.inner.size(0), *h.shape), self.inner).relu_()
        return residual + torch.baddbmm(self.outer_bias, inner, self.outer).sum(0)


def normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm without the module's detour."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def fast_decode_layers(layers: Iterable[nn.Module], biases: Biases) -> List[FastDecodeLayer]:
    """All layers' weights as steps read them."""
    return [FastDecodeLayer.of(layer, biases) for layer in layers if isinstance(layer, Layer)]
