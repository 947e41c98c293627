"""Single-token decoding: what ``Layer`` computes, without what only whole segments need.

A step reads every weight and every cached key once, so memory traffic is its cost. Here a layer is some fifteen calls
on whole tensors: no geometry, no mask (a new token sees all that is cached), no copies of what is cached, queries, keys
and values from one product. Slow reference: ``layer.py`` and ``attention.py`` (``tests/core/test_decoding.py``
compares), and behind them ``tests/reference.py``. Letters as in ``softmax.py``; T keys, the new token's own included.
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
    """A weight [out, in] as [in, out]. Products with few rows read that layout faster on a CPU; a GPU reads both."""
    return weight.t().contiguous() if weight.device.type == "cpu" else weight.t()


def ffn_shards(inner: int, device: torch.device) -> int:
    """Into how many the feed-forward's width is cut: a CPU gives each core its own part of a product with few rows."""
    return next(count for count in (4, 2, 1) if inner % count == 0) if device.type == "cpu" else 1


@dataclass(frozen=True)
class FastDecodeLayer:
    """One layer's weights in the layout that single-token decoding reads.

    Attributes:
        layer: whose weights.
        qkv: [3, D, H * d], queries scaled by 1 / sqrt(d).
        vectors: [2, 1, H, d], content and position vectors towards the past, scaled alike; None with absolute
            positions.
        out: [H * d, D].
        inner, inner_bias, outer: the feed-forward in P parts, [P, D, F / P], [P, 1, F / P] and [P, F / P, D].
    """

    layer: Layer
    qkv: Tensor
    vectors: Optional[Tensor]
    out: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor

    @staticmethod
    def of(layer: Layer, biases: Biases) -> "FastDecodeLayer":
        """A layer's weights."""
        attention, scale = layer.attention, layer.attention.head_dim**-0.5
        vectors = None
        if attention.r_proj is not None:
            content, position = biases.left()
            assert content is not None and position is not None
            vectors = torch.stack([content, position]).unsqueeze(1) * scale
        projections = [attention.q_proj.weight * scale, *attention.kv_proj.weight.chunk(2)]
        feed = layer.feed_forward
        P = ffn_shards(feed.fc1.out_features, feed.fc1.weight.device)
        return FastDecodeLayer(
            layer,
            torch.stack([transposed(weight) for weight in projections]),
            vectors,
            transposed(attention.out_proj.weight),
            torch.stack([transposed(weight) for weight in feed.fc1.weight.chunk(P)]),
            feed.fc1.bias.view(P, 1, -1),
            torch.stack([transposed(weight) for weight in feed.fc2.weight.chunk(P, dim=1)]),
        )

    def decode_step(
        self, x: Tensor, cache: Cache, reach: Optional[int], output: Buffer, lse: Buffer, keep: bool
    ) -> Tensor:
        """One token's states [B, D] -> [B, D]; its key and value enter ``cache``, and if ``keep`` its attention
        enters ``output`` and ``lse``. Slow reference: ``stream_logits`` in ``tests/reference.py``."""
        layer, pre_norm = self.layer, self.layer.normalize_before
        B, H, d = x.size(0), layer.attention.heads, layer.attention.head_dim
        h = normalize(layer.attention_norm, x) if pre_norm else x
        q, k, v = torch.bmm(h.expand(3, *h.shape), self.qkv).view(3, B, H, d).unbind(0)
        cache.keys.slot().copy_(k)
        cache.values.slot().copy_(v)
        T = cache.keys.length
        first = 0 if reach is None else max(0, T - reach)
        keys = cache.keys.flat()[:, first:T]  # [B * H, T, d]
        if self.vectors is None:
            scores = torch.bmm(q.reshape(B * H, 1, d), keys.transpose(1, 2))
        else:
            content, position = q + self.vectors  # [B, H, d] each
            R = cache.relative_keys_t()[
                :, :, cache.zero_distance_index + 1 - T + first : cache.zero_distance_index + 1
            ]  # [H, d, T]
            scores = torch.bmm(position.transpose(0, 1), R).transpose(0, 1).reshape(B * H, 1, T - first)
            scores = torch.baddbmm(scores, content.reshape(B * H, 1, d), keys.transpose(1, 2))
        weights = F.softmax(scores, dim=-1, dtype=softmax_dtype(scores.dtype))
        values = cache.values.flat()[:, :, first:T]  # [B * H, d, T]
        mixed = torch.bmm(values, weights.to(x.dtype).transpose(1, 2))  # [B * H, d, 1]
        if keep:
            output.slot().copy_(mixed.view(B, H, d))
            # As in softmax.attend: p = exp(s - lse), read off at the largest weight.
            top = scores.amax(-1).to(weights.dtype) - weights.amax(-1).log()
            lse.slot().copy_(top.view(B, H))
        h = torch.addmm(x, mixed.view(B, H * d), self.out)
        feed = layer.feed_forward
        if pre_norm:
            return self.feed(normalize(layer.feed_forward_norm, h), h + feed.fc2.bias)
        h = normalize(layer.attention_norm, h)
        return normalize(layer.feed_forward_norm, self.feed(h, h + feed.fc2.bias))

    def feed(self, h: Tensor, residual: Tensor) -> Tensor:
        """``residual`` [B, D] and the feed-forward of ``h`` [B, D], but for its last bias."""
        inner = torch.baddbmm(self.inner_bias, h.expand(self.inner.size(0), *h.shape), self.inner).relu_()
        return residual + torch.bmm(inner, self.outer).sum(0)


def normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm without the module's detour."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def fast_decode_layers(layers: Iterable[nn.Module], biases: Biases) -> List[FastDecodeLayer]:
    """All layers' weights as steps read them."""
    return [FastDecodeLayer.of(layer, biases) for layer in layers if isinstance(layer, Layer)]
