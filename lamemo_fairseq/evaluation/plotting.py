"""Lines, and values with their names, as SVG."""

import io
import logging
from typing import Dict, List, Optional, Sequence, Tuple

# Where everybody's debug messages were turned on, matplotlib's fonts alone would fill pages.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

from matplotlib import rc_context  # noqa: E402  (its first messages come with the import)
from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

Series = Dict[str, List[Tuple[float, float]]]


def draw(series: Series, across: str, up: str, band: Optional[Series] = None, log: str = "") -> str:
    """Lines as SVG.

    Args:
        series: points by name.
        across, up: what the axes show.
        band: half the width of a band around each point.
        log: the axes ("x", "y") that grow by factors; x does so from 32 on, which leaves room for 0.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, points in sorted(series.items()):
        x, y = [p[0] for p in points], [p[1] for p in points]
        (line,) = axes.plot(x, y, label=name, marker="o" if len(x) < 12 else None, markersize=3)
        width = [] if band is None else [p[1] for p in band[name]]
        if any(width):
            low, high = [a - b for a, b in zip(y, width)], [a + b for a, b in zip(y, width)]
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if "x" in log:
        axes.set_xscale("symlog", base=2, linthresh=32)
        axes.xaxis.set_major_formatter("{x:.0f}")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return svg(figure)


def dot_plot(dots: Sequence[Tuple[str, float, float]], across: str) -> str:
    """Names from top to bottom, each with its value and half the width of a bar around it, as SVG."""
    figure = Figure(figsize=(6, 0.8 + 0.28 * len(dots)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    names, values, spreads = zip(*dots)
    axes.errorbar(values, range(len(dots)), xerr=spreads, fmt="o", markersize=4, capsize=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(dots)), names)
    axes.invert_yaxis()
    axes.set_xlabel(across)
    axes.grid(alpha=0.3)
    return svg(figure)


def svg(figure: Figure) -> str:
    """A figure's file."""
    file = io.StringIO()
    # No date and no random names: the same results give the same file. Text stays text, which is shorter.
    with rc_context({"svg.hashsalt": "lamemo", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
