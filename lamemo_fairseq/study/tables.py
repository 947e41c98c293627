"""Statistics over a study's runs: means over seeds, who is ahead and from where on, what alpha is like."""

import math
import statistics
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Sequence, Tuple

from ..core.probe import BINS
from ..evaluation.plotting import Series

Row = Dict[str, str]
Table = Tuple[List[str], List[List[str]]]
Points = List[Tuple[float, float]]

#: the kind that others are compared with: memory that is only read
BASE = "recurrence"
#: alphas in the first and in the last part of their range leave, or take in, next to nothing
NEAR_0, NEAR_1 = 1 / BINS, 1 - 1 / BINS


def mean_and_spread(values: Sequence[float]) -> Tuple[float, float]:
    """Mean and sample standard deviation; the latter is 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def in_words(mean: float, spread: float, seeds: int, sign: str = "") -> str:
    """Mean and spread as a table shows them; one seed alone says nothing of the spread."""
    return f"{mean:{sign}.4f}" + (f" ± {spread:.4f}" if seeds > 1 else "")


def grouped(rows: Sequence[Row], *names: str) -> Dict[Tuple[str, ...], List[Row]]:
    """Rows by their values of ``names``, in the order in which these first come."""
    groups: Dict[Tuple[str, ...], List[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def average(rows: Sequence[Row], x: str, y: str) -> Tuple[Series, Series]:
    """Per kind, the mean of ``y`` over seeds at each ``x``, and its standard deviation."""
    lines: Series = {}
    bands: Series = {}
    for (kind,), mine in grouped(rows, "kind").items():
        places = sorted(grouped(mine, x).values(), key=lambda same: float(same[0][x]))
        lines[kind], bands[kind] = over_seeds(places, x, y)
    return lines, bands


def average_curves(points: Sequence[Row], x: str) -> Tuple[Series, Series]:
    """Per kind, the mean over seeds at each validation, against the mean of ``x`` there, and its standard deviation."""
    lines: Series = {}
    bands: Series = {}
    for (kind,), mine in grouped(points, "kind").items():
        lines[kind], bands[kind] = over_seeds(shared(mine), x, "bpc")
    return lines, bands


def over_seeds(places: Sequence[Sequence[Row]], x: str, y: str) -> Tuple[Points, Points]:
    """The mean and the standard deviation of ``y`` at each place, against the mean of ``x`` there."""
    means, spreads = [], []
    for same in places:
        mean, spread = mean_and_spread([float(row[y]) for row in same])
        means.append((mean_of(same, x), mean))
        spreads.append((mean_of(same, x), spread))
    return means, spreads


def mean_of(rows: Sequence[Row], name: str) -> float:
    """The mean of a column."""
    return statistics.fmean(float(row[name]) for row in rows)


@dataclass(frozen=True)
class Gap:
    """A kind against :data:`BASE` in one corpus and condition, over the seeds that both were trained with.

    Attributes:
        bits: mean of the differences in test bits, seed by seed; below 0 is better than the base.
        spread: their standard deviation.
        seconds, base_seconds: medians of the times, of the kind and of the base.
    """

    corpus: str
    condition: str
    kind: str
    seeds: FrozenSet[str]
    bits: float
    spread: float
    seconds: float
    base_seconds: float


def gaps(rows: Sequence[Row]) -> List[Gap]:
    """All kinds against :data:`BASE`, wherever both were trained with the same seed."""
    found = []
    for (corpus, condition), runs in grouped(rows, "corpus", "condition").items():
        kinds = grouped(runs, "kind")
        base = {row["seed"]: row for row in kinds.pop((BASE,), [])}
        for (kind,), mine in kinds.items():
            pairs = [(row, base[row["seed"]]) for row in mine if row["seed"] in base]
            if pairs:
                bits = mean_and_spread([float(a["test_bits"]) - float(b["test_bits"]) for a, b in pairs])
                seconds = [statistics.median(float(run["seconds"]) for run in runs) for runs in zip(*pairs)]
                seeds = frozenset(row["seed"] for row, _ in pairs)
                found.append(Gap(corpus, condition, kind, seeds, *bits, *seconds))
    return found


def differences(rows: Sequence[Row], curves: Sequence[Row]) -> Table:
    """Each kind against :data:`BASE`: the final scores by seed, and the curves' crossings.

    Args:
        rows: one per run, as in ``results.csv``.
        curves: one per validation of each run: the run's columns, ``updates``, ``seconds``, ``bpc``.
    """
    heads = ["corpus", "condition", "kind", f"test bits less {BASE}'s", "seconds", "by updates", "by seconds"]
    lines = []
    for gap in gaps(rows):
        mine, base = (
            [
                row
                for row in curves
                if (row["corpus"], row["condition"], row["kind"]) == (gap.corpus, gap.condition, kind)
                and row["seed"] in gap.seeds
            ]
            for kind in (gap.kind, BASE)
        )
        ahead = [verdict(mine, base, x) for x in ("updates", "seconds")]
        bits = in_words(gap.bits, gap.spread, len(gap.seeds), "+")
        seconds = f"{gap.seconds:.0f} : {gap.base_seconds:.0f}"
        lines.append([gap.corpus, gap.condition, gap.kind, bits, seconds, *ahead])
    return heads, lines


def mean_curve(points: Sequence[Row], x: str) -> Points:
    """The mean over seeds at each validation, against the mean of ``x`` there."""
    return over_seeds(shared(points), x, "bpc")[0]


def shared(points: Sequence[Row]) -> List[List[Row]]:
    """Points of several seeds by their updates, without those that not all seeds have: a stopped run has one more."""
    seeds = {row["seed"] for row in points}
    found = grouped(points, "updates").values()
    same = [rows for rows in found if {row["seed"] for row in rows} == seeds]
    return sorted(same, key=lambda rows: float(rows[0]["updates"]))


#: what a verdict on curves takes at least
MIN_POINTS, MIN_SEEDS = 3, 2


def verdict(mine: Sequence[Row], base: Sequence[Row], x: str) -> str:
    """Who is ahead where, as far as the runs carry it.

    A place counts where the means differ by more than the spread of their difference, which is the root of the sum of
    both variances over seeds.

    Args:
        mine, base: validations of a kind and of :data:`BASE`, with the same seeds.
        x: what they are compared at equal values of: ``updates`` or ``seconds``.
    """
    if len({row["seed"] for row in mine}) < MIN_SEEDS:
        return f"no verdict: fewer than {MIN_SEEDS} seeds"
    (one, one_spread), (other, other_spread) = (over_seeds(shared(rows), x, "bpc") for rows in (mine, base))
    if min(len(one), len(other)) < MIN_POINTS:
        return f"no verdict: fewer than {MIN_POINTS} points"
    low, high = max(one[0][0], other[0][0]), min(one[-1][0], other[-1][0])
    places = sorted({place for place, _ in (*one, *other) if low <= place <= high})
    if len(places) < MIN_POINTS:
        return f"no verdict: fewer than {MIN_POINTS} points in common"
    gaps = [at(one, place) - at(other, place) for place in places]
    spreads = [math.hypot(at(one_spread, place), at(other_spread, place)) for place in places]
    clear = [gap for gap, spread in zip(gaps, spreads) if abs(gap) > spread]
    if not clear:
        return "level within the spread"
    if len(clear) == len(places):
        return crossings(one, other)
    ahead = sum(gap < 0 for gap in clear)
    counts = [f"{who} at {n}" for who, n in (("ahead", ahead), ("behind", len(clear) - ahead)) if n]
    return f"{', '.join(counts)} of {len(places)} points, else within the spread"


def crossings(mine: Sequence[Tuple[float, float]], base: Sequence[Tuple[float, float]]) -> str:
    """Who is ahead (below) where, both curves being straight between their points and compared where both exist."""
    low, high = max(mine[0][0], base[0][0]), min(mine[-1][0], base[-1][0])
    places = sorted({x for x, _ in (*mine, *base) if low <= x <= high})
    if not places:
        return "nowhere comparable"
    gaps = [(x, gap) for x, gap in ((x, at(mine, x) - at(base, x)) for x in places) if gap]
    if not gaps:
        return "level"
    turns = []
    for (x, gap), (next_x, next_gap) in zip(gaps, gaps[1:]):
        if (gap < 0) != (next_gap < 0):
            turns.append(x + (next_x - x) * gap / (gap - next_gap))
    last = "ahead" if gaps[-1][1] < 0 else "behind"
    if not turns:
        return f"{last} throughout"
    if len(turns) == 1:
        return f"{last} from {turns[0]:.0f} on"
    return f"crosses at {', '.join(f'{x:.0f}' for x in turns)}; {last} at the end"


def at(curve: Sequence[Tuple[float, float]], x: float) -> float:
    """A curve's height at ``x``, between its first and last point."""
    for (left, low), (right, high) in zip(curve, curve[1:]):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left) if right > left else high
    assert x == curve[0][0]
    return curve[0][1]


def alphas(rows: Sequence[Row]) -> Table:
    """Per memory length, each layer's mean alpha, and how much of it is near 0 or 1."""
    layers = sorted({row["layer"] for row in rows}, key=int)
    heads = ["corpus", "condition", "kind", "memory", *(f"layer {layer}" for layer in layers)]
    lines = []
    for where, runs in grouped(rows, "corpus", "condition", "kind", "length").items():
        found = grouped(runs, "layer")
        shown = []
        for layer in layers:
            mine = found.get((layer,), [])
            mean, low, high = (mean_of(mine, name) if mine else 0.0 for name in ("mean", "near_0", "near_1"))
            shown.append(f"{mean:.2f} ({low:.1%}, {high:.1%})" if mine else "")
        lines.append([*where, *shown])
    return heads, lines
