"""Attention to a continuous signal, by a Gaussian density per query (infinity-former, arXiv 2109.00301).

Of the continuous memory; letters as in ``continuous.py``. Slow reference: ``gaussian_attention`` and ``kl`` in
``tests/reference_family.py``.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..softmax import full_precision, softmax_dtype
from .base import LongTermOutput
from .signal import basis, normal


class SignalAttention(nn.Module):
    """One layer's attention to its signal.

    Keys and values are projections of the coefficients, per head. A query's products with the keys become, by one
    affine map each, the mean (through a sigmoid) and the variance (through a softplus) of its density.
    The queries are those of the layer's other attention.

    Args:
        dim: D.
        heads: H.
        head_dim: d.
        basis_functions: E.
        sigma: standard deviation of the prior of the KL regulariser.
        sticky: return how much of each part of [0, 1] was read.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, basis_functions: int, sigma: float, sticky: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.basis_functions = heads, head_dim, basis_functions
        self.prior, self.sticky = sigma**2, sticky
        self.kv_proj = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=False)
        self.mean = nn.Linear(basis_functions, 1)
        self.variance = nn.Linear(basis_functions, 1)

    def forward(self, signal: Tensor, queries: Tensor) -> LongTermOutput:
        """Coefficients ``signal`` [B, E, D] and scaled queries [B, H, n, d] -> hidden states [B, n, D]."""
        keys, values = self.project(signal.to(queries.dtype))
        mean, variance = self.densities(queries, keys)
        hidden_states, usage = self.read(mean, variance, values, *self.basis(mean))
        # KL(N(mean, variance) || N(mean, prior)): it leaves the mean alone. Heads are summed.
        ratio = variance / self.prior
        divergence = ((ratio - ratio.log() - 1) / 2).sum(1).mean()
        return LongTermOutput(hidden_states, usage, divergence)

    def project(self, signal: Tensor) -> Tuple[Tensor, Tensor]:
        """Keys and values [B, H, E, d] of coefficients [B, E, D]."""
        keys, values = self.kv_proj(signal).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def basis(self, like: Tensor) -> Tuple[Tensor, Tensor]:
        """Centres and variances [E] of the basis functions, in the type of ``like``."""
        centres, widths = basis(self.basis_functions, like)
        return centres, widths**2

    def read(
        self, mean: Tensor, variance: Tensor, values: Tensor, centres: Tensor, spread: Tensor
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Reads ``values`` [B, H, E, d] by densities [B, H, n]: hidden states [B, n, D], and usage where sticky."""
        # The integral of N(t; mean, variance) psi_j(t) over all t, in closed form: [B, H, n, E].
        weights = normal(mean.unsqueeze(-1), centres, variance.unsqueeze(-1) + spread)
        output = weights.to(values.dtype) @ values
        hidden_states = self.out_proj(output.transpose(1, 2).flatten(2))  # [B, n, H * d] -> [B, n, D]
        return hidden_states, self.usage(mean.detach(), variance.detach()) if self.sticky else None

    def split(self, projected: Tensor) -> Tensor:
        """[B, E, H * d] -> [B, H, E, d]."""
        return projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def densities(self, queries: Tensor, keys: Tensor) -> Tuple[Tensor, Tensor]:
        """Means and variances [B, H, n] of the queries' densities, in float32 or wider, under autocast too."""
        products = queries @ keys.transpose(-2, -1)  # [B, H, n, E]
        wide = products.to(softmax_dtype(products.dtype))
        with full_precision(wide):
            mean = F.linear(wide, self.mean.weight.to(wide), self.mean.bias.to(wide)).squeeze(-1)
            raw = F.linear(wide, self.variance.weight.to(wide), self.variance.bias.to(wide)).squeeze(-1)
            return as_density(mean, raw)

    def usage(self, mean: Tensor, variance: Tensor) -> Tensor:
        """How much fell on each of E equal parts of [0, 1], summed over heads and queries: [B, E]."""
        edges = torch.arange(self.basis_functions + 1, dtype=mean.dtype, device=mean.device) / self.basis_functions
        below = torch.special.ndtr((edges - mean.unsqueeze(-1)) / variance.sqrt().unsqueeze(-1))  # [B, H, n, E + 1]
        return below.diff(dim=-1).sum((1, 2))


class SignalReader:
    """Reads a signal for single tokens: what depends on the signal alone is computed once.

    The keys are multiplied with both affine maps, so that a query's mean and variance are two products of width d.
    Slow reference: :meth:`SignalAttention.forward`.
    """

    def __init__(self, attention: SignalAttention, signal: Tensor) -> None:
        keys, values = attention.project(signal.to(attention.kv_proj.weight.dtype))
        wide = softmax_dtype(keys.dtype)
        mean, variance = attention.mean, attention.variance
        self.attention, self.values = attention, values.contiguous()
        with full_precision(keys):
            maps = torch.cat([mean.weight, variance.weight]).to(wide)  # [2, E]
            self.keys_t = (maps @ keys.to(wide)).transpose(-2, -1)  # [B, H, d, 2]
        self.bias = torch.cat([mean.bias, variance.bias]).to(wide)
        self.basis = attention.basis(self.bias)

    def __call__(self, queries: Tensor) -> LongTermOutput:
        """Scaled queries [B, H, n, d] -> hidden states [B, n, D]."""
        with full_precision(queries):
            raw = queries.to(self.keys_t.dtype) @ self.keys_t + self.bias  # [B, H, n, 2]
        mean, variance = raw.unbind(-1)
        return LongTermOutput(*self.attention.read(*as_density(mean, variance), self.values, *self.basis))


def as_density(mean: Tensor, variance: Tensor) -> Tuple[Tensor, Tensor]:
    """Mean and variance from what their affine maps give."""
    return mean.sigmoid(), F.softplus(variance).clamp_min(1e-12)
