"""What the members of the family compute beside LaMemo, slowly and in float64, from the papers' equations.

Loops over rows, words and places; integrals by sums over a fine grid. It imports neither the package nor fairseq.
Papers: Compressive Transformer (arXiv 1911.05507), infinity-former (arXiv 2109.00301), relative positions of Shaw et
al. (arXiv 1803.02155) in the form of Transformer-XL's comparison (arXiv 1901.02860), adaptive softmax (arXiv
1609.04309). Letters: H heads, d head width, D model width, c compression rate, E basis functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def widths(count: int) -> tuple[float, float]:
    """Of the continuous signal's basis functions: one half of them narrow, one half wide, each half even over [0, 1].

    The wide ones are at least as wide as the gaps between them.
    """
    gap = 1 / (count // 2 - 1)
    return (0.01, 0.05) if gap <= 0.05 else (gap / 5, gap)


# Compressive Transformer, section 3.2: n * c rows [n * c, D] become n.


def compress_mean(rows: Tensor, c: int) -> Tensor:
    return torch.stack([sum((rows[g * c + j] for j in range(c)), torch.zeros(())) / c for g in range(len(rows) // c)])


def compress_max(rows: Tensor, c: int) -> Tensor:
    groups = [rows[g * c : (g + 1) * c] for g in range(len(rows) // c)]
    return torch.stack([torch.stack([max(group[:, x]) for x in range(rows.size(1))]) for group in groups])


def compress_conv(rows: Tensor, c: int, kernel: Tensor, dilation: int = 1) -> Tensor:
    """``kernel`` [D, D, c]; the last of its taps falls on the last row of a group, rows before the first are 0."""
    result = []
    for g in range(len(rows) // c):
        total = torch.zeros(rows.size(1), dtype=rows.dtype)
        for tap in range(c):
            place = (g + 1) * c - 1 - dilation * (c - 1 - tap)
            if place >= 0:
                total = total + kernel[:, :, tap] @ rows[place]
        result.append(total)
    return torch.stack(result)


def compress_most_used(rows: Tensor, usage: Sequence[float], c: int) -> Tensor:
    ranked = sorted(range(len(rows)), key=lambda place: (-usage[place], place))
    return torch.stack([rows[place] for place in sorted(ranked[: len(rows) // c])])


def content_attention(h: Tensor, rows: Tensor, Wq: Tensor, Wk: Tensor, Wv: Tensor, heads: int) -> Tensor:
    """sigma((h Q)(rows K)) (rows V) per head, scaled: h [N, D], rows [m, D], W [H * d, D] -> [N, H * d]."""
    d = Wq.size(0) // heads
    out = torch.zeros(len(h), Wq.size(0), dtype=h.dtype)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i, x in enumerate(h):
            scores = torch.stack([(Wq[part] @ x) @ (Wk[part] @ row) / math.sqrt(d) for row in rows])
            weights = scores.softmax(0)
            out[i, part] = sum(w * (Wv[part] @ row) for w, row in zip(weights, rows))
    return out


# Infinity-former, section 3: signals on [0, 1].


def basis_functions(t: float, count: int) -> Tensor:
    """psi(t) [E]."""
    half = count // 2
    values = []
    for width in widths(count):
        for j in range(half):
            centre = j / (half - 1)
            values.append(math.exp(-((t - centre) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi)))
    return torch.tensor(values, dtype=torch.float64)


def ridge(values: Tensor, places: Sequence[float], penalty: float, count: int) -> Tensor:
    """Coefficients B [E, D] of values [n, D] at ``places``: B^T = X^T F^T (F F^T + penalty I)^-1."""
    F = torch.stack([basis_functions(t, count) for t in places], dim=1)  # [E, n]
    inverse = torch.linalg.inv(F @ F.T + penalty * torch.eye(count, dtype=torch.float64))
    return (values.T @ F.T @ inverse).T


def signal_at(B: Tensor, t: float) -> Tensor:
    """X(t) = B^T psi(t), [D]."""
    return B.T @ basis_functions(t, len(B))


def integral(function: Callable[[Tensor], Tensor], low: float, high: float, steps: int = 30_000) -> Tensor:
    """The integral of a function of places [n] -> [n, .] by the midpoint rule."""
    step = (high - low) / steps
    places = low + step * (torch.arange(steps, dtype=torch.float64) + 0.5)
    return function(places).sum(0) * step


def gaussian(t: Tensor, mean: float, variance: float) -> Tensor:
    return torch.exp(-((t - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def gaussian_attention(B: Tensor, mean: float, variance: float) -> Tensor:
    """E_p[X(t)], p = N(mean, variance): [D].

    Only places near the basis functions count, so the grid is within [-4, 5]; and only those within twelve standard
    deviations of the mean: a grid that is not finer than the density would miss it.
    """
    half = len(B) // 2
    two = widths(len(B))
    centres = torch.tensor([j / (half - 1) for _ in two for j in range(half)], dtype=torch.float64)
    wide = torch.tensor([width for width in two for _ in range(half)], dtype=torch.float64)

    def weighted(t: Tensor) -> Tensor:
        psi = torch.exp(-((t[:, None] - centres) ** 2) / (2 * wide**2)) / (wide * math.sqrt(2 * math.pi))
        return gaussian(t, mean, variance)[:, None] * (psi @ B)

    reach = 12 * math.sqrt(variance)
    return integral(weighted, max(-4.0, mean - reach), min(5.0, mean + reach))


def kl(mean: float, variance: float, prior: float) -> float:
    """KL(N(mean, variance) || N(mean, prior)) as the integral of p log(p / q)."""

    def inner(t: Tensor) -> Tensor:
        p = gaussian(t, mean, variance)
        log_ratio = 0.5 * math.log(prior / variance) + (t - mean) ** 2 * (0.5 / prior - 0.5 / variance)
        return (p * log_ratio)[:, None]

    reach = 12 * math.sqrt(variance)
    return float(integral(inner, mean - reach, mean + reach))


# Learned distances: score(i, j) = [(q_i + u)·k_j + q_i·r_t + b_t] / sqrt(d), t = i - j, at most the table's last.


def shaw_attention(
    rows: Tensor, first: int, Wq: Tensor, Wk: Tensor, Wv: Tensor, u: Tensor, r: Tensor, b: Tensor
) -> Tensor:
    """Rows ``first`` and after of [T, D] attend to themselves and to what is before: [T - first, H * d].

    u [H, d], r [entries, H, d], b [entries, H].
    """
    heads, d = u.shape
    out = torch.zeros(len(rows) - first, heads * d, dtype=rows.dtype)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i in range(first, len(rows)):
            q = Wq[part] @ rows[i]
            scores = []
            for j in range(i + 1):
                t = min(i - j, len(r) - 1)
                scores.append(((q + u[head]) @ (Wk[part] @ rows[j]) + q @ r[t, head] + b[t, head]) / math.sqrt(d))
            weights = torch.stack(scores).softmax(0)
            out[i - first, part] = sum(weights[j] * (Wv[part] @ rows[j]) for j in range(i + 1))
    return out


# Adaptive softmax: log p(word) = log p(cluster) + log p(word | cluster).


def adaptive_log_probs(x: Tensor, head: Tensor, tails: Sequence[Tensor], cutoff: int) -> Tensor:
    """x [D], ``head`` [cutoff + clusters, D], each of ``tails`` [words, D] -> [V]."""
    first = [head[row] @ x for row in range(len(head))]
    total = sum(math.exp(float(score)) for score in first)
    result = [float(first[word]) - math.log(total) for word in range(cutoff)]
    for number, tail in enumerate(tails):
        cluster = float(first[cutoff + number]) - math.log(total)
        scores = [float(row @ x) for row in tail]
        inside = math.log(sum(math.exp(score) for score in scores))
        result += [cluster + score - inside for score in scores]
    return torch.tensor(result, dtype=torch.float64)
