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
        projected = [self.kv_proj(part) for part in parts]
        distances = self.project_distances(geometry, cache)
        # The only place where the path is chosen. Steps: for one look at the weights, for masks and keys that differ
        # between streams or chunks, and for distances with a bias or none.
        plain = cache is not None or probe is not None or want_usage or geometry.attn_mask.dim() != 2
        fuses = self.fused and not plain and self.r_proj is not None
        previous = previous_attention if memory > 0 else None
        attend = self.attend_fused if fuses else self.attend_in_steps
        mixed = attend(queries, projected, distances, geometry, biases, previous, want_lse, cache)
        if probe is not None:
            assert mixed.weights is not None
            probe.see(mixed.weights, geometry.attn_mask, mixed.alpha)
        hidden_states = self.out_proj(mixed.output)
        usage = mixed.weights.detach().mean(1).sum(1) if want_usage and mixed.weights is not None else None  # [B, T]
        if long_term is None:
            return AttentionOutput(hidden_states, mixed.attention, mixed.alpha, usage, None)
        further, usage, loss = long_term(self.scaled(queries))
        return AttentionOutput(hidden_states + further, mixed.attention, mixed.alpha, usage, loss)

    def attend_in_steps(
        self,
        queries: Tensor,
        projected: Sequence[Tensor],
        distances: Optional[Distances],
        geometry: AttentionGeometry,
        biases: Biases,
        previous: Optional[Attention],
        want_lse: bool,
        cache: Optional[Cache],
    ) -> Mixed:
        """Attention of projected queries [B, Q, H * d], all of it by ``softmax.attend``."""
        scaled, (keys, values) = self.scaled(queries), self.split_keys(projected, cache)
        M = 0 if previous is None else previous.lse.size(-1)
        current = scaled[:, :, M:]
        # Where slots of the memory are recomputed, the mask has rows for them, which the last layer does not ask for.
        scores = self.causal_scores(current, keys, distances, geometry.last(current.size(2)), biases)
        dropout = self.dropout if self.training else 0.0
        left = ops.attend(scores, values, dropout=dropout, want_lse=want_lse)
        if previous is None:
            attention = None if left.lse is None else Attention(left.output.detach(), left.lse)
            return Mixed(self.join(left.output), attention, None, left.weights)
        assert distances is not None
        right = self.attend_ahead(scaled[:, :, :M], keys, values, distances, geometry, biases, previous)
        assert left.lse is not None and right.lse is not None
        output, lse = torch.cat([right.output, left.output], dim=2), torch.cat([right.lse, left.lse], dim=2)
        return Mixed(self.join(output), Attention(output.detach(), lse), right.alpha, left.weights)

    def attend_fused(
        self,
        queries: Tensor,
        projected: Sequence[Tensor],
        distances: Optional[Distances],
        geometry: AttentionGeometry,
        biases: Biases,
        previous: Optional[Attention],
        want_lse: bool,
        cache: Optional[Cache],
    ) -> Mixed:
        """As :meth:`attend_in_steps`, as one operation; but the memory's in steps, where those need fewer products."""
        assert distances is not None and cache is None
        M = 0 if previous is None else previous.lse.size(-1)
        dropout = self.dropout if self.training else 0.0
        geometry = geometry.last(queries.size(1) - M)
        together = previous is not None and geometry.ahead is not None and geometry.ahead.rising is not None
        asking = queries if together else queries[:, M:]
        earlier, given = previous if together else None, (projected, distances.keys, geometry, biases)
        left = fused_attention(asking, *given, previous_attention=earlier, dropout=dropout, want_lse=want_lse)
        if previous is None or together:
            return Mixed(left.output, left.attention, left.alpha, None)
        keys, values = self.split_keys(projected, None)
        ahead = self.scaled(queries[:, :M])
        right = self.attend_ahead(ahead, keys, values, distances, geometry, biases, previous)
        assert left.attention is not None and right.lse is not None
        output = torch.cat([right.output.detach(), left.attention.output], dim=2)
        lse = torch.cat([right.lse, left.attention.lse], dim=2)
        joined = torch.cat([self.join(right.output), left.output], dim=1)
        return Mixed(joined, Attention(output, lse), right.alpha, None)

    def attend_ahead(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        distances: Distances,
        geometry: AttentionGeometry,
        biases: Biases,
        previous: Attention,
    ) -> Attended:
        """Memory's scaled queries [B, H, M, d] over those of all keys and values [B, H, T, d] that are ahead."""
        ahead, M = geometry.ahead, queries.size(2)
        assert ahead is not None
        span = slice(M - ahead.keys + 1, M + 1)
        scores = self.ahead_scores(queries, keys[:, :, span], distances.keys, ahead, biases)
        dropout = self.dropout if self.training else 0.0
        return ops.attend(scores, values[:, :, span], previous_attention=previous, dropout=dropout, want_lse=True)

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
