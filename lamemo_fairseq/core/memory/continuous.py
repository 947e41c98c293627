"""Infinity-former's memory: the distant past as a continuous signal of fixed size (arXiv 2109.00301).

A layer reads the inputs of the last mem_len tokens as rows. Rows that leave them enter a signal on [0, 1], a sum of
Gaussian bumps whose coefficients are fitted by ridge regression. Each query reads the signal through a Gaussian
density of its own. To make room, the signal is contracted to [0, tau], so it never ends and costs the same forever.
Letters as in ``ops.py``; S points at which a signal is sampled, E bumps, L rows that enter.

What the paper leaves open, and what is done here:

- Widths, ridge, tau and the weight of the regulariser differ between the paper's experiments; each is a flag, but for
  the widths (``WIDTHS``), which are those of its sorting task and grow where bumps are few.
- Values stand in the middles of equal parts of the interval that they fill. A contraction happens once per segment,
  however many rows leave: shorter segments than in training make the signal forget faster per token.
- Sticky: parts of [0, 1] are as many as bumps; places are quantiles instead of draws; the samples are spread evenly
  over [0, tau], which is what gives room to what was read. ``HEADROOM`` bounds what repeated stretching can add up to.
- Rows enter as the layer's inputs, without a gate in front of the fit, and before a pre-norm; queries come without
  the relative position's biases; both affine maps have a bias. Heads are summed in the regulariser.
"""

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Dict, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..softmax import full_precision, softmax_dtype
from .base import LayerMemory, LongTermOutput, Memory, MemoryState, SegmentRecord

if TYPE_CHECKING:
    from ...plugin.config import LaMemoConfig
    from ..layer import Layer

# Widths of the bumps, by turns: narrow ones for detail and wide ones that leave no gap.
WIDTHS = (0.01, 0.05)
# A sticky signal may be this many times as high as the rows that enter it.
HEADROOM = 4.0


def basis(bumps: int, like: Tensor) -> Tuple[Tensor, Tensor]:
    """Centres [E], even over [0, 1] for each width, and widths [E] of the bumps, in the type of ``like``.

    Few bumps are wider: with gaps between the widest, a contracted signal would be no copy of the old one, and would
    grow with every contraction.
    """
    each = bumps // len(WIDTHS)
    stretch = max(1.0, 1 / (each - 1) / max(WIDTHS))
    centres = torch.linspace(0, 1, each, dtype=like.dtype, device=like.device).repeat(len(WIDTHS))
    widths = stretch * torch.tensor(WIDTHS, dtype=like.dtype, device=like.device).repeat_interleave(each)
    return centres, widths


def normal(at: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The density N(at; mean, variance)."""
    return torch.exp(-((at - mean) ** 2) / (2 * variance)) / (2 * math.pi * variance).sqrt()


def evaluate(at: Tensor, bumps: int) -> Tensor:
    """The bumps psi_j(t) = N(t; centre_j, width_j^2) at ``at`` [..., S]: [..., S, E]."""
    centres, widths = basis(bumps, at)
    return normal(at.unsqueeze(-1), centres, widths**2)


def midpoints(count: int, start: float, end: float, like: Tensor) -> Tensor:
    """The middles [count] of equal parts of [start, end]."""
    return start + (end - start) * (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


@lru_cache(maxsize=16)
def regression(past: int, new: int, tau: float, bumps: int, ridge: float, device: torch.device) -> Tensor:
    """The matrix G [past + new, E] of the fit, float64: coefficients = G^T values (multivariate ridge regression).

    G = F^T (F F^T + ridge I)^-1 with F [E, past + new] the bumps at the values' places: ``past`` samples of the
    old signal over [0, tau], ``new`` rows over [tau, 1], or over all of [0, 1] where there is no old signal.
    F F^T is badly conditioned, hence the width. The matrix depends on sizes alone, and so may be remembered.
    """
    wide = torch.zeros((), dtype=torch.float64)
    places = torch.cat([midpoints(past, 0, tau, wide), midpoints(new, tau if past else 0, 1, wide)])
    bumps_at = evaluate(places, bumps)  # F^T, [past + new, E]
    gram = bumps_at.T @ bumps_at + ridge * torch.eye(bumps_at.size(1), dtype=wide.dtype)
    return torch.linalg.solve(gram, bumps_at.T).T.to(device)


def quantiles(usage: Tensor, count: int) -> Tensor:
    """Where to sample, by how much each of U equal parts of [0, 1] was read: [B, U] -> [B, count], rising.

    Part of a density p, the places at which its integral is (m + 1/2) / count: what many draws from p come to,
    without the draws, so that a resumed run and an uninterrupted one agree.
    """
    # A floor keeps the integral rising where nothing was read.
    parts = usage / usage.sum(1, keepdim=True).clamp_min(1e-30) + 1e-6
    total = F.pad((parts / parts.sum(1, keepdim=True)).cumsum(1), (1, 0))  # [B, U + 1], from 0 to 1
    wanted = midpoints(count, 0, 1, usage).expand(usage.size(0), -1).contiguous()
    right = torch.searchsorted(total, wanted).clamp(1, usage.size(1))
    low, high = total.gather(1, right - 1), total.gather(1, right)
    return (right - 1 + ((wanted - low) / (high - low)).clamp(0, 1)) / usage.size(1)


class SignalAttention(nn.Module):
    """One layer's attention to its signal.

    Keys and values are projections of the coefficients, per head. A query's products with the keys become, by one
    affine map each, the mean (through a sigmoid) and the variance (through a softplus) of its density.
    The queries are those of the layer's other attention.

    Args:
        dim: D.
        heads: H.
        head_dim: d.
        bumps: E.
        sigma: standard deviation of the prior of the KL regulariser.
        sticky: return how much of each part of [0, 1] was read.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, bumps: int, sigma: float, sticky: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.bumps = heads, head_dim, bumps
        self.prior, self.sticky = sigma**2, sticky
        self.kv_proj = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=False)
        self.mean = nn.Linear(bumps, 1)
        self.variance = nn.Linear(bumps, 1)

    def forward(self, signal: Tensor, queries: Tensor) -> LongTermOutput:
        """Coefficients ``signal`` [B, E, D] and scaled queries [B, H, n, d] -> rows [B, n, D]."""
        keys, values = self.kv_proj(signal.to(queries.dtype)).chunk(2, dim=-1)
        keys, values = self.split(keys), self.split(values)  # [B, H, E, d]
        mean, variance = self.densities(queries, keys)
        centres, widths = basis(self.bumps, mean)
        # The integral of N(t; mean, variance) psi_j(t) over all t, in closed form: [B, H, n, E].
        weights = normal(mean.unsqueeze(-1), centres, variance.unsqueeze(-1) + widths**2)
        output = weights.to(values.dtype) @ values
        rows = self.out_proj(output.transpose(1, 2).flatten(2))  # [B, n, H * d] -> [B, n, D]
        # KL(N(mean, variance) || N(mean, prior)): it leaves the mean alone. Heads are summed.
        ratio = variance / self.prior
        divergence = ((ratio - ratio.log() - 1) / 2).sum(1).mean()
        return LongTermOutput(rows, self.usage(mean.detach(), variance.detach()) if self.sticky else None, divergence)

    def split(self, rows: Tensor) -> Tensor:
        """[B, E, H * d] -> [B, H, E, d]."""
        return rows.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def densities(self, queries: Tensor, keys: Tensor) -> Tuple[Tensor, Tensor]:
        """Means and variances [B, H, n] of the queries' densities, in float32 or wider, under autocast too."""
        products = queries @ keys.transpose(-2, -1)  # [B, H, n, E]
        wide = products.to(softmax_dtype(products.dtype))
        with full_precision(wide):
            mean = F.linear(wide, self.mean.weight.to(wide), self.mean.bias.to(wide)).squeeze(-1).sigmoid()
            raw = F.linear(wide, self.variance.weight.to(wide), self.variance.bias.to(wide)).squeeze(-1)
            return mean, F.softplus(raw).clamp_min(1e-12)

    def usage(self, mean: Tensor, variance: Tensor) -> Tensor:
        """How much fell on each of E equal parts of [0, 1], summed over heads and queries: [B, E]."""
        edges = torch.arange(self.bumps + 1, dtype=mean.dtype, device=mean.device) / self.bumps
        below = torch.special.ndtr((edges - mean.unsqueeze(-1)) / variance.sqrt().unsqueeze(-1))  # [B, H, n, E + 1]
        return below.diff(dim=-1).sum((1, 2))


class ContinuousMemory(Memory):
    """The kind behind ``--memory-type continuous``.

    Keeps for each layer ``layer{l}`` [B, M, D], as recurrence does, and ``signal{l}`` [B, E, D], float32 or wider,
    of length zero until a row has left the others.
    """

    flags = (
        "long_term_basis",
        "long_term_samples",
        "long_term_ridge",
        "long_term_contraction",
        "long_term_sticky",
        "long_term_kl",
        "long_term_sigma",
    )
    separates_documents = False

    def __init__(self, cfg: "LaMemoConfig") -> None:
        super().__init__(cfg)
        self.bumps, self.samples, self.ridge = cfg.long_term_basis, samples(cfg), cfg.long_term_ridge
        self.tau, self.sticky, self.weight = cfg.long_term_contraction, cfg.long_term_sticky, cfg.long_term_kl
        self.attentions = nn.ModuleList(
            SignalAttention(self.dim, self.heads, self.head_dim, self.bumps, cfg.long_term_sigma, self.sticky)
            for _ in range(self.layers)
        )

    @classmethod
    def check(cls, cfg: "LaMemoConfig") -> None:
        least = 2 * len(WIDTHS)
        if cfg.long_term_basis < least or cfg.long_term_basis % len(WIDTHS):
            raise UsageError(
                f"--long-term-basis {cfg.long_term_basis} makes no basis: choose a multiple of {len(WIDTHS)}, one "
                f"part for each width, of {least} or more"
            )
        if samples(cfg) < 1:
            raise UsageError(f"--long-term-samples {cfg.long_term_samples} is too small: choose 1 or more")
        if not 0 < cfg.long_term_contraction < 1:
            raise UsageError(f"--long-term-contraction {cfg.long_term_contraction} is not in (0, 1): choose e.g. 0.75")
        if cfg.long_term_ridge <= 0:
            raise UsageError(f"--long-term-ridge {cfg.long_term_ridge} is not positive: choose e.g. 0.5")
        if cfg.long_term_sigma <= 0:
            raise UsageError(f"--long-term-sigma {cfg.long_term_sigma} is not positive: choose e.g. 0.05")
        if cfg.long_term_kl < 0:
            raise UsageError(f"--long-term-kl {cfg.long_term_kl} is negative: choose e.g. 1e-5, or 0 for none")

    @property
    def auxiliary_loss_names(self) -> Tuple[str, ...]:
        return ("kl",) if self.weight > 0 else ()

    @property
    def span(self) -> int:
        """The signal never ends; at tau = 3/4 and segments of mem_len, nine tenths of it are of this many tokens.

        Sticky memories can be far older: what is scored with several streams then depends on how many (see
        ``--stream-warmup``).
        """
        return 9 * self.mem_len

    def full_length(self, name: str) -> int:
        return self.bumps if name.startswith("signal") else self.mem_len

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        tensors = {}
        for layer in range(self.layers):
            tensors[f"layer{layer}"] = like.new_zeros(streams, 0, self.dim)
            tensors[f"signal{layer}"] = like.new_zeros(streams, 0, self.dim, dtype=softmax_dtype(like.dtype))
        return MemoryState(tensors)

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        rows, signal = state.tensors[f"layer{layer}"], state.tensors[f"signal{layer}"]
        if signal.size(1) == 0:
            return LayerMemory(rows)
        return LayerMemory(rows, beyond=partial(self.attentions[layer], signal))

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        tensors = {}
        for layer in range(self.layers):
            rows = torch.cat([state.tensors[f"layer{layer}"], record.inputs[layer][:, :tokens_to_memory]], dim=1)
            out = max(0, rows.size(1) - self.mem_len)
            tensors[f"layer{layer}"] = rows[:, out:]
            signal = state.tensors[f"signal{layer}"]
            usage = record.usage[layer] if signal.size(1) > 0 else None
            tensors[f"signal{layer}"] = self.extend(signal, rows[:, :out], usage) if out > 0 else signal
        return MemoryState(tensors, tensors["layer0"].size(1), tokens_to_memory)

    def extend(self, signal: Tensor, rows: Tensor, usage: Optional[Tensor]) -> Tensor:
        """The signal [B, E, D] contracted, with ``rows`` [B, L, D] behind it.

        Where the queries' ``usage`` is known, what was read more gets more of the samples, and thereby more of
        [0, tau] ("sticky memories").
        """
        values, past = rows.to(signal.dtype), 0
        if signal.size(1) > 0:
            past = self.samples
            if usage is None:
                places = midpoints(past, 0, 1, signal)
            else:
                places = quantiles(usage.to(signal.dtype), past)
            values = torch.cat([evaluate(places, self.bumps) @ signal, values], dim=1)  # [B, S + L, D]
        fit = regression(past, rows.size(1), self.tau, self.bumps, self.ridge, signal.device)
        fitted = fit.T.to(signal.dtype) @ values
        return fitted if usage is None else self.bounded(fitted, rows)

    def bounded(self, signal: Tensor, rows: Tensor) -> Tensor:
        """``signal`` [B, E, D], lower where it is more than HEADROOM times as high as a stream's ``rows`` [B, L, D].

        A fit rings at the seam between old and new. Contracted evenly, that dies out; but where one place is read and
        stretched again and again, the ringing is as well, and would grow without end.
        """
        heights = (evaluate(midpoints(2 * self.bumps, 0, 1, signal), self.bumps) @ signal).abs().amax((1, 2))
        limits = HEADROOM * rows.to(signal.dtype).abs().amax((1, 2))
        return signal * (limits / heights.clamp_min(1e-30)).clamp(max=1)[:, None, None]

    def losses(
        self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int, layers: "Sequence[Layer]"
    ) -> Dict[str, Tensor]:
        """The KL regulariser of the densities' variances, a mean over tokens; heads and layers are summed."""
        if not self.auxiliary_loss_names:
            return {}
        terms = [loss for loss in record.losses if loss is not None]
        # Ranks add up gradients of the same parameters in every step, so the first segment has a loss too.
        terms += [0 * weight.sum() for weight in self.parameters()] if not terms else []
        return {"kl": self.weight * torch.stack(terms).sum()}


def samples(cfg: "LaMemoConfig") -> int:
    """Points at which the old signal is sampled: as many as there are bumps, unless the flag says otherwise."""
    return cfg.long_term_basis if cfg.long_term_samples is None else cfg.long_term_samples
