"""Multi-head attention with relative positions: causal for the segment, and looking ahead for the memory.

Projections and biases around two calls of ``softmax.attend``, for whole segments; ``fast_decode.py`` does the same for
single tokens. Slow reference: ``tests/reference.py`` (``segment``). Letters as in ``softmax.py`` and ``positions.py``.
"""

from typing import Callable, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import softmax as ops
from .encodings import Biases, Distances, PositionEncoding
from .fused_attention import FusedAttention, Window, fused_attention
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
        keys, values = self.project_keys(parts, cache)
        distances = self.project_distances(geometry, cache)
        first = memory if previous_attention is None else 0
        queries = self.project_queries(parts, first)
        current = queries[:, :, memory - first :]

        # The only place where the path is chosen. Steps: for one look at the weights, for masks and keys that differ
        # between streams or chunks, and for distances with a bias or none.
        plain = cache is not None or probe is not None or want_usage or geometry.attn_mask.dim() != 2
        fuses = self.fused and not plain and self.r_proj is not None
        left = self.attend_left(fuses, current, keys, values, distances, geometry, biases, want_lse)
        output, lse, alpha = left.output, left.lse, None
        weights = None if isinstance(left, FusedAttention) else left.weights
        if previous_attention is not None and memory > 0:
            assert geometry.ahead is not None and lse is not None and distances is not None
            span = slice(memory - geometry.ahead.keys + 1, memory + 1)
            read = (queries[:, :, :memory], keys[:, :, span], values[:, :, span])
            right = self.attend_ahead(fuses, *read, distances.keys, geometry.ahead, biases, previous_attention)
            assert right.lse is not None
            output = torch.cat([right.output, output], dim=2)
            lse, alpha = torch.cat([right.lse, lse], dim=2), right.alpha
        if probe is not None:
            assert weights is not None
            probe.see(weights, geometry.attn_mask, alpha)
        hidden_states = self.out_proj(output.transpose(1, 2).flatten(2))  # [B, M' + N, H * d] -> [.., D]
        attention_state = None if lse is None else Attention(output.detach(), lse)
        usage = weights.detach().mean(1).sum(1) if want_usage and weights is not None else None  # [B, T]
        if long_term is None:
            return AttentionOutput(hidden_states, attention_state, alpha, usage, None)
        further, usage, loss = long_term(queries)
        return AttentionOutput(hidden_states + further, attention_state, alpha, usage, loss)

    def attend_left(
        self,
        fuses: bool,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        distances: Optional[Distances],
        geometry: AttentionGeometry,
        biases: Biases,
        want_lse: bool,
    ) -> Union[Attended, FusedAttention]:
        """Current tokens' queries [B, H, N, d] over keys and values [B, H, T, d], as :meth:`causal_scores` has them."""
        dropout = self.dropout if self.training else 0.0
        # Where slots of the memory are recomputed, the mask has rows for them, which the last layer does not ask for.
        geometry = geometry.last(queries.size(2))
        if not fuses:
            scores = self.causal_scores(queries, keys, distances, geometry, biases)
            return ops.attend(scores, values, dropout=dropout, want_lse=want_lse)
        assert distances is not None
        content, position = biases.left()
        return fused_attention(
            self.biased(queries, content),
            self.biased(queries, position),
            keys,
            values,
            distances.keys[geometry.causal].unflatten(-1, (self.heads, self.head_dim)),  # [T + 1, H, d]
            geometry.attn_mask,
            Window(queries.size(2), geometry.visible),
            dropout=dropout,
            want_lse=want_lse,
        )

    def attend_ahead(
        self,
        fuses: bool,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        distances: Tensor,
        ahead: LookAheadGeometry,
        biases: Biases,
        previous_attention: Attention,
    ) -> Union[Attended, FusedAttention]:
        """Memory's queries [B, H, M, d] over keys and values [B, H, K, d], as :meth:`ahead_scores` has them.

        Row r and key c are M - K + 1 + c - r apart, so one product with the distances 1 to M + 1, which rise by one per
        column, has all that are visible.
        """
        dropout = self.dropout if self.training else 0.0
        if not fuses or ahead.rising is None:
            scores = self.ahead_scores(queries, keys, distances, ahead, biases)
            return ops.attend(scores, values, previous_attention=previous_attention, dropout=dropout, want_lse=True)
        content, position = biases.right()
        return fused_attention(
            self.biased(queries, content),
            self.biased(queries, position),
            keys,
            values,
            distances.index_select(0, ahead.rising).unflatten(-1, (self.heads, self.head_dim)),  # [M + 1, H, d]
            ahead.attn_mask,
            Window(queries.size(2) - ahead.keys),
            previous_attention=previous_attention,
            dropout=dropout,
        )

    def split(self, projected: Tensor) -> Tensor:
        """[B, n, H * d] -> [B, H, n, d]."""
        return projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def project_queries(self, parts: Sequence[Tensor], first: int) -> Tensor:
        """Scaled queries [B, H, n, d] of h in parts from slot ``first`` on; a part of the memory's own is only read."""
        asking = parts[-1] if len(parts) > 1 else parts[0][:, first:]
        return self.split(self.q_proj(asking)) * self.head_dim**-0.5

    def project_keys(self, parts: Sequence[Tensor], cache: Optional[Cache]) -> Tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of h [B, M + N, D] in parts, behind those of the cache."""
        projected = [self.kv_proj(part) for part in parts]
        keys, values = (projected[0] if len(parts) == 1 else torch.cat(projected, dim=1)).chunk(2, dim=-1)
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
