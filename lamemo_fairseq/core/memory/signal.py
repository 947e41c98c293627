"""A signal on [0, 1] as a sum of Gaussian basis functions, fitted by ridge regression (arXiv 2109.00301).

Of the continuous memory. E basis functions. Slow reference: ``basis_functions``, ``ridge`` and ``signal_at`` in
``tests/reference_family.py``.
"""

import math
from functools import lru_cache
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError

# Widths of the basis_functions, by turns: narrow ones for detail and wide ones that leave no gap.
WIDTHS = (0.01, 0.05)


def spacing(basis_functions: int) -> Tuple[int, float]:
    """How many basis functions have each width, and by what the widths are stretched, so that no gap is left."""
    each = basis_functions // len(WIDTHS)
    return each, max(1.0, 1 / (each - 1) / max(WIDTHS))


def basis(basis_functions: int, like: Tensor) -> Tuple[Tensor, Tensor]:
    """Centres [E], even over [0, 1] for each width, and widths [E] of the basis functions, in the type of ``like``.

    Few of them are wider: with gaps between the widest, a contracted signal would be no copy of the old one, and would
    grow with every contraction.
    """
    each, stretch = spacing(basis_functions)
    centres = torch.linspace(0, 1, each, dtype=like.dtype, device=like.device).repeat(len(WIDTHS))
    # Filled on the device: numbers of the host would have to be sent there.
    widths = torch.cat([centres.new_full((each,), stretch * width) for width in WIDTHS])
    return centres, widths


def normal(at: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The density N(at; mean, variance)."""
    return torch.exp(-((at - mean) ** 2) / (2 * variance)) / (2 * math.pi * variance).sqrt()


def evaluate(at: Tensor, basis_functions: int) -> Tensor:
    """The basis functions psi_j(t) = N(t; centre_j, width_j^2) at ``at`` [..., S]: [..., S, E]."""
    centres, widths = basis(basis_functions, at)
    return normal(at.unsqueeze(-1), centres, widths**2)


def midpoints(count: int, start: float, end: float, like: Tensor) -> Tensor:
    """The middles [count] of equal parts of [start, end]."""
    return start + (end - start) * (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


def design_matrix(past: int, new: int, tau: float, basis_functions: int) -> Tensor:
    """F^T [past + new, E], float64: the basis functions at ``past`` places in [0, tau] and ``new`` in [tau, 1]."""
    wide = torch.zeros((), dtype=torch.float64, device="cpu")  # numbers, also where a model is only sketched (meta)
    places = torch.cat([midpoints(past, 0, tau, wide), midpoints(new, tau if past else 0, 1, wide)])
    return evaluate(places, basis_functions)


@lru_cache(maxsize=64)
def smallest_ridge(past: int, new: int, tau: float, basis_functions: int) -> float:
    """The penalty below which F F^T + ridge I is singular in float64: E eps |F F^T|, the error of F F^T itself.

    |.| is the largest sum of a row, at least the spectral norm: sum_s psi_i(s) sum_j psi_j(s), as no psi is negative.
    In plain numbers, since a model may be built on tensors that hold none.
    """
    each, stretch = spacing(basis_functions)
    functions = [(number / (each - 1), stretch * width) for width in WIDTHS for number in range(each)]
    start = tau if past else 0.0
    places = [tau * (number + 0.5) / past for number in range(past)]
    places += [start + (1 - start) * (number + 0.5) / new for number in range(new)]
    norm, rows = math.sqrt(2 * math.pi), [0.0] * basis_functions
    for place in places:
        heights = [math.exp(-(((place - mean) / width) ** 2) / 2) / (norm * width) for mean, width in functions]
        total = sum(heights)
        rows = [row + height * total for row, height in zip(rows, heights)]
    return basis_functions * float(torch.finfo(torch.float64).eps) * max(rows)


@lru_cache(maxsize=16)
def regression(past: int, new: int, tau: float, basis_functions: int, ridge: float, device: torch.device) -> Tensor:
    """The matrix G [past + new, E] of the fit, float64: coefficients = G^T values (multivariate ridge regression).

    G = F^T (F F^T + ridge I)^-1 with F [E, past + new] the basis functions at the values' places: ``past`` samples of
    the old signal over [0, tau], ``new`` slots over [tau, 1], or over all of [0, 1] where there is no old signal.
    F F^T is badly conditioned, hence the width. The matrix depends on sizes alone, and so may be remembered.

    Raises:
        UsageError: the fit is singular.
    """
    least = smallest_ridge(past, new, tau, basis_functions)
    if ridge < least:
        raise UsageError(
            f"--long-term-ridge {ridge} is too small for {basis_functions} basis functions, the fit is singular: "
            f"choose {least:.0e} or more, e.g. 0.5"
        )
    design = design_matrix(past, new, tau, basis_functions)  # F^T, [past + new, E]
    gram = design.T @ design + ridge * torch.eye(design.size(1), dtype=design.dtype, device="cpu")
    return torch.linalg.solve(gram, design.T).T.to(device)


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
