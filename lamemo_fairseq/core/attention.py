"""Multi-head attention with relative positions: causal for the segment, and looking ahead for the memory.

Projections and biases around two calls of ``softmax.attend``, for whole segments; ``fast_decode.py`` does the same for
single tokens. Slow reference: ``tests/reference.py`` (``segment``). Letters as in ``softmax.py`` and ``positions.py``.
"""

from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import softmax as ops
from .encodings import Biases, Distances, PositionEncoding
from .fused_attention import fused_attention
from .kv_cache import Cache
from .memory.base import LongTermOutput
from .positions import AttentionGeometry, LookAheadGeometry, align
from .probe import LayerProbe
from .softmax import Attended, Attention


class AttentionOutput(NamedTuple):
    """``hidden_states`` [B, M' + N, D], M' = M where the memory looked ahead and else 0; ``attention_state``
    goes to the memory.

    ``usage`` [B, T], the attention that each key received from the current tokens, or what ``long_term`` returned.
    """

    hidden_states: Tensor
    attention_state: Optional[Attention]
    alpha: Optional[Tensor]
    usage: Optional[Tensor]
    loss: Optional[Tensor]


class Mixed(NamedTuple):
    """``output`` [B, Q, H * d] before its projection; ``attention``, for the memory, and ``alpha`` as in
    ``softmax.attend``; ``weights`` of the current tokens, where they were taken in steps."""

    output: Tensor
    attention: Optional[Attention]
    alpha: Optional[Tensor]
    weights: Optional[Tensor]


class Projected(NamedTuple):
    """What a layer attends with.

    Attributes:
        queries: [B, Q, H * d], of ``memory_queries`` = M' slots that look ahead, and of the current tokens.
        keys_values: keys beside values [B, n, 2 * H * d], of memory and segment, joined or in two parts.
        distances: encodings, or None.
        geometry, biases: of the segment, shared by all layers.
        memory_queries: M', M where the memory looks ahead and else 0.
        previous: what its slots gathered before, or None.
    """

    queries: Tensor
    keys_values: Sequence[Tensor]
    distances: Optional[Distances]
    geometry: AttentionGeometry
    biases: Biases
    memory_queries: int
    previous: Optional[Attention]


class RelativeAttention(nn.Module):
    """One layer's attention. Slow reference: ``segment`` in ``tests/reference.py``.

    Args:
        dim: D.
        heads: H.
        head_dim: d.
        dropout: on attention weights.
        encoding: how distances enter.
        fused: compute scores to outputs as one operation, where it can.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, dropout: float, encoding: PositionEncoding, fused: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.dropout, self.fused = heads, head_dim, dropout, fused
        width = heads * head_dim
        self.q_proj = nn.Linear(dim, width, bias=False)
        self.kv_proj = nn.Linear(dim, 2 * width, bias=False)
        self.r_proj = encoding.projection(width)
        self.table = encoding.table(heads, head_dim)
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(
        self,
        parts: Sequence[Tensor],
        memory: int,
        geometry: AttentionGeometry,
        biases: Biases,
        *,
        previous_attention: Optional[Attention] = None,
        long_term: Optional[Callable[[Tensor], LongTermOutput]] = None,
        want_lse: bool = False,
        want_usage: bool = False,
        cache: Optional[Cache] = None,
        probe: Optional[LayerProbe] = None,
    ) -> AttentionOutput:
        """Attends from the current tokens and, given ``previous_attention``, from the memory ahead.

        Args:
            parts: h [B, M + N, D], whole or as memory and segment; ``memory`` = M slots of it are older, 0 where these
                stand in ``cache``, as in a further chunk while decoding, or are recomputed as tokens among others.
            geometry: encodings and masks of this segment.
            biases: shared vectors.
            previous_attention: what the memory slots gathered before; None where they are only read.
            long_term: a memory that is no keys and values, read by the same queries; what it returns is added.
            want_lse: keep the outputs with their log-sum-exps.
            want_usage: return how much attention each key received, averaged over heads.
            cache: keys and values so far, while a segment is decoded.
            probe: shown where attention goes.
        """
        first = memory if previous_attention is None else 0
        # A part of the memory's own is only read.
        queries = self.q_proj(parts[-1] if len(parts) > 1 else parts[0][:, first:])  # [B, Q, H * d]
        keys_values = [self.kv_proj(part) for part in parts]
        distances = self.project_distances(geometry, cache)
        previous, ahead = (previous_attention, memory) if memory > 0 and previous_attention is not None else (None, 0)
        given = Projected(queries, keys_values, distances, geometry, biases, ahead, previous)
        # The only place where the path is chosen. Steps: for one look at the weights, for masks and keys that differ
        # between streams or chunks, and for distances with a bias or none.
        plain = cache is not None or probe is not None or want_usage or geometry.attn_mask.dim() != 2
        fuses = self.fused and not plain and self.r_proj is not None
        mixed = self.attend_fused(given, want_lse) if fuses else self.attend_in_steps(given, want_lse, cache)
        if probe is not None:
            assert mixed.weights is not None
            probe.see(mixed.weights, geometry.attn_mask, mixed.alpha)
        hidden_states = self.out_proj(mixed.output)
        usage = mixed.weights.detach().mean(1).sum(1) if want_usage and mixed.weights is not None else None  # [B, T]
        if long_term is None:
            return AttentionOutput(hidden_states, mixed.attention, mixed.alpha, usage, None)
        further, usage, loss = long_term(self.scaled(queries))
        return AttentionOutput(hidden_states + further, mixed.attention, mixed.alpha, usage, loss)

    def attend_in_steps(self, given: Projected, want_lse: bool, cache: Optional[Cache]) -> Mixed:
        """All of it by ``softmax.attend``."""
        scaled, (keys, values) = self.scaled(given.queries), self.split_keys(given.keys_values, cache)
        M = given.memory_queries
        current = scaled[:, :, M:]
        # Where slots of the memory are recomputed, the mask has rows for them, which the last layer does not ask for.
        geometry = given.geometry.last(current.size(2))
        scores = self.causal_scores(current, keys, given.distances, geometry, given.biases)
        dropout = self.dropout if self.training else 0.0
        left = ops.attend(scores, values, dropout=dropout, want_lse=want_lse)
        if given.previous is None:
            attention = None if left.lse is None else Attention(left.output.detach(), left.lse)
            return Mixed(self.join(left.output), attention, None, left.weights)
        right = self.attend_ahead(scaled[:, :, :M], keys, values, given)
        assert left.lse is not None and right.lse is not None
        output, lse = torch.cat([right.output, left.output], dim=2), torch.cat([right.lse, left.lse], dim=2)
        return Mixed(self.join(output), Attention(output.detach(), lse), right.alpha, left.weights)

    def attend_fused(self, given: Projected, want_lse: bool) -> Mixed:
        """As :meth:`attend_in_steps`, as one operation; but the memory's in steps, where those need fewer products."""
        assert given.distances is not None
        M, ahead = given.memory_queries, given.geometry.ahead
        together = given.previous is not None and ahead is not None and ahead.rising is not None
        left = fused_attention(
            given.queries if together else given.queries[:, M:],
            given.keys_values,
            given.distances.keys,
            given.geometry.last(given.queries.size(1) - M),
            given.biases,
            previous_attention=given.previous if together else None,
            dropout=self.dropout if self.training else 0.0,
            want_lse=want_lse,
        )
        if given.previous is None or together:
            return Mixed(left.output, left.attention, left.alpha, None)
        right = self.attend_ahead(self.scaled(given.queries[:, :M]), *self.split_keys(given.keys_values, None), given)
        assert left.attention is not None and right.lse is not None
        output = torch.cat([right.output.detach(), left.attention.output], dim=2)
        lse = torch.cat([right.lse, left.attention.lse], dim=2)
        joined = torch.cat([self.join(right.output), left.output], dim=1)
        return Mixed(joined, Attention(output, lse), right.alpha, None)

    def attend_ahead(self, queries: Tensor, keys: Tensor, values: Tensor, given: Projected) -> Attended:
        """Memory's scaled queries [B, H, M, d] over those of all keys and values [B, H, T, d] that are ahead."""
        ahead, M = given.geometry.ahead, given.memory_queries
        assert ahead is not None and given.distances is not None
        span = slice(M - ahead.keys + 1, M + 1)
        scores = self.ahead_scores(queries, keys[:, :, span], given.distances.keys, ahead, given.biases)
        dropout = self.dropout if self.training else 0.0
        return ops.attend(scores, values[:, :, span], previous_attention=given.previous, dropout=dropout, want_lse=True)

    def split(self, projected: Tensor) -> Tensor:
        """[B, n, H * d] -> [B, H, n, d]."""
        return projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def join(self, output: Tensor) -> Tensor:
        """[B, H, n, d] -> [B, n, H * d]."""
        return output.transpose(1, 2).flatten(2)

    def scaled(self, queries: Tensor) -> Tensor:
        """Projected queries [B, n, H * d], scaled, as [B, H, n, d]."""
        return self.split(queries) * self.head_dim**-0.5

    def split_keys(self, projected: Sequence[Tensor], cache: Optional[Cache]) -> Tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d], behind those of the cache, of projected parts [B, n, 2 * H * d]."""
        keys, values = (projected[0] if len(projected) == 1 else torch.cat(list(projected), dim=1)).chunk(2, dim=-1)
        keys, values = self.split(keys), self.split(values)
        return (keys, values) if cache is None else cache.append(keys, values)

    def project_distances(self, geometry: AttentionGeometry, cache: Optional[Cache]) -> Optional[Distances]:
        """Encodings of distances as this layer sees them, or None."""
        if self.r_proj is None and self.table is None:
            return None
        if cache is not None and cache.distances is not None:
            return cache.distances
        assert geometry.encodings is not None
        if self.table is not None:
            projected = self.table(geometry.encodings)
        else:
            assert self.r_proj is not None
            projected = Distances(self.r_proj(geometry.encodings), None)
        if cache is not None:
            cache.distances = projected
        return projected

    def causal_scores(
        self, queries: Tensor, keys: Tensor, distances: Optional[Distances], geometry: AttentionGeometry, biases: Biases
    ) -> Tensor:
        """(q + u)·k + (q + w_left)·R of the distance to the left: [B, H, N, T], hidden keys ``-inf``.

        Scores of Transformer-XL (arXiv 1901.02860, section 3.3), which LaMemo keeps for the past.
        """
        content, position = biases.left() if self.table is None else self.table.left()
        scores = self.biased(queries, content) @ keys.transpose(-2, -1)
        if distances is not None:
            R = distances.keys[geometry.causal].unflatten(-1, (self.heads, self.head_dim))  # [T + 1, H, d]
            B, H, N, d = queries.shape
            q = self.biased(queries, position).transpose(0, 1).reshape(H, B * N, d)
            products = torch.bmm(q, R.permute(1, 2, 0))  # [H, B * N, T + 1]: one R serves all streams
            products = products.view(H, B, N, -1)
            if distances.bias is not None:
                products = products + distances.bias[geometry.causal].t()[:, None, None] * d**-0.5
            scores += align(products).transpose(0, 1)
        scores += geometry.attn_mask
        return scores

    def ahead_scores(
        self, queries: Tensor, keys: Tensor, distances: Tensor, ahead: LookAheadGeometry, biases: Biases
    ) -> Tensor:
        """(q + u)·k + (q + w_right)·R of the distance to the right: [B, H, M, K], hidden keys ``-inf``.

        Rows go in blocks of C, each against C + K distances, so that cost and space grow with M·K, not M·M
        (LaMemo, section 3.1).
        """
        content, position = biases.right()
        B, H, M, d = queries.shape
        blocks, columns = ahead.index.shape
        C = columns - ahead.keys
        padded = F.pad(queries, (0, 0, 0, blocks * C - M))  # [B, H, blocks * C, d]
        products = self.biased(padded, content) @ keys.transpose(-2, -1)
        R = distances.index_select(0, ahead.index.flatten())  # [blocks * (C + K), H * d]
        R = R.view(blocks, columns, H, d).permute(2, 0, 3, 1)  # [H, blocks, d, C + K]
        q = self.biased(padded, position).unflatten(2, (blocks, C))  # [B, H, blocks, C, d]
        q = q.permute(1, 2, 0, 3, 4).reshape(H * blocks, B * C, d)
        relative = torch.bmm(q, R.reshape(H * blocks, d, columns)).view(H, blocks, B, C, columns)
        relative = align(relative)[..., : ahead.keys].permute(2, 0, 1, 3, 4)  # [B, H, blocks, C, K]
        scores = (products.unflatten(2, (blocks, C)) + relative).flatten(2, 3)[:, :, :M]
        return scores + ahead.attn_mask

    def biased(self, queries: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Scaled queries [B, H, n, d] plus a vector per head, scaled alike."""
        return queries if bias is None else queries + (bias * self.head_dim**-0.5)[:, None]
