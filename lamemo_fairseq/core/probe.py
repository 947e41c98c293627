"""Attention statistics: how much of it falls on the memory, and what the look-ahead changed, by distance.

A probe is handed down to the layers; without one they do nothing for it. Letters as in ``softmax.py``.
"""

from typing import Optional

import torch
from torch import Tensor

#: parts of equal width into which alpha's range from 0 to 1 is cut
BINS = 20


class Probe:
    """Sums over all segments that are read with it.

    Args:
        layers: L.
        reach: largest distance that is told apart; what lies further is left out.

    Attributes:
        attention: [2, L, reach + 1]: sum over pairs of a token and a memory slot of the attention weight (mean over
            heads), and number of pairs, by distance.
        alpha: [2, L, reach + 1]: sum over memory slots of the old attention's weight in the interpolation (LaMemo,
            equation 6; mean over heads), and number of slots, by distance to the first current token.
        histogram: [L, BINS]: alphas (one per head and memory slot) in each part of their range.
        share: [2, L]: sum over tokens of the attention that falls on memory, and number of tokens.
    """

    def __init__(self, layers: int, reach: int) -> None:
        self.reach = reach
        self.attention = torch.zeros(2, layers, reach + 1, dtype=torch.float64)
        self.alpha = torch.zeros(2, layers, reach + 1, dtype=torch.float64)
        self.histogram = torch.zeros(layers, BINS, dtype=torch.float64)
        self.share = torch.zeros(2, layers, dtype=torch.float64)
        self.real = torch.ones(0, 0)

    def begin(self, real: Tensor) -> None:
        """A segment follows, with tokens where ``real`` [B, N] and padding elsewhere."""
        self.real = real.double()

    def layer(self, number: int) -> "LayerProbe":
        """What layer ``number`` is given."""
        return LayerProbe(self, number)


class LayerProbe:
    """One layer's view of a :class:`Probe`."""

    def __init__(self, probe: Probe, number: int) -> None:
        self.probe, self.number = probe, number

    def see(self, weights: Tensor, attn_mask: Tensor, alpha: Optional[Tensor]) -> None:
        """Attention of one segment.

        Args:
            weights: [B, H, N, T] of the current tokens, or [B, H, T, T] where the memory's slots are recomputed.
            attn_mask: [N, T] or [B, 1, N, T], ``-inf`` where a token may not look, or [T, T] or [B, 1, T, T].
            alpha: [B, H, M] of the memory slots, or None where there is no look-ahead.
        """
        probe, real = self.probe, self.probe.real.to(weights.device)
        N, T = real.size(1), weights.size(-1)
        M = T - N
        weights, attn_mask = weights[..., -N:, :], attn_mask[..., -N:, :]
        fallen = (weights[..., :M].double().mean(1) * real[:, :, None]).sum(0)  # [N, M]
        visible = (attn_mask[..., :M] == 0).expand(len(weights), 1, N, M).squeeze(1)
        pairs = (visible * real[:, :, None]).sum(0)  # [N, M]
        places = torch.arange(T, device=weights.device)
        distance = places[M:, None] - places[:M]
        self.add(probe.attention, distance, fallen, pairs)
        probe.share[:, self.number] += torch.stack([fallen.sum(), real.sum()]).cpu()
        if alpha is not None:
            counted = real[:, :1].expand(-1, M)  # a stream that has ended refreshes nothing worth counting
            part = (alpha.double() * BINS).long().clamp(max=BINS - 1)  # [B, H, M]
            heads = counted[:, None].expand(part.shape)
            probe.histogram[self.number].index_add_(0, part.flatten().cpu(), heads.flatten().cpu())
            self.add(probe.alpha, M - places[:M], (alpha.double().mean(1) * counted).sum(0), counted.sum(0))

    def add(self, sums: Tensor, distance: Tensor, values: Tensor, counts: Tensor) -> None:
        """Adds ``values`` and ``counts`` to ``sums`` [2, L, reach + 1] at ``distance``, all of one shape."""
        near = distance <= self.probe.reach
        place = distance[near].cpu()
        sums[0, self.number].index_add_(0, place, values[near].cpu())
        sums[1, self.number].index_add_(0, place, counts[near].double().cpu())
