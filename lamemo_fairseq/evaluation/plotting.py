"""Figures: lines, bands and dots on axes that look alike everywhere; the only place that calls matplotlib."""

import io
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

# Where everybody's debug messages were turned on, matplotlib's fonts alone would fill pages.
logging.getLogger("matplotlib").setLevel(logging.WARNING)

from matplotlib import rc_context  # noqa: E402  (its first messages come with the import)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

#: points (x, y) by the name of their line
Series = Dict[str, List[Tuple[float, float]]]


def panels(count: int = 1, width: float = 6, height: float = 3.6, share_y: bool = False) -> Tuple[Figure, List[Axes]]:
    """A figure of ``width`` x ``height`` inches with ``count`` panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=share_y)[0])


def lines(axes: Axes, series: Series, band: Optional[Series] = None) -> None:
    """A line through the points of each name, marked where they are few; ``band``: half the width of a band around."""
    for name, points in series.items():
        x, y = [p[0] for p in points], [p[1] for p in points]
        (line,) = axes.plot(x, y, label=name, marker="o" if len(x) < 12 else None, markersize=3)
        width = [] if band is None else [p[1] for p in band[name]]
        if any(width):
            low, high = [a - b for a, b in zip(y, width)], [a + b for a, b in zip(y, width)]
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def label(axes: Axes, across: str, up: str, log: str = "") -> None:
    """What the axes show; those in ``log`` ("x", "y") grow by factors, x from 32 on, which leaves room for 0."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    if "x" in log:
        axes.set_xscale("symlog", base=2, linthresh=32)
        axes.xaxis.set_major_formatter("{x:.0f}")
    if "y" in log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def legend(axes: Axes) -> None:
    """The names of lines, within their panel."""
    axes.legend(frameon=False)


def legend_below(figure: Figure, axes: Axes) -> None:
    """The names of a panel's lines, which are long, below all panels."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, loc="outside lower center", frameon=False)


def draw(series: Series, across: str, up: str, band: Optional[Series] = None, log: str = "") -> str:
    """One panel of lines as SVG; the arguments are those of :func:`lines` and :func:`label`."""
    figure, (axes,) = panels()
    lines(axes, dict(sorted(series.items())), band)
    label(axes, across, up, log)
    legend(axes)
    return svg(figure)


def dot_plot(dots: Sequence[Tuple[str, float, float]], across: str) -> str:
    """Names from top to bottom, each with its value and half the width of a bar around it, as SVG."""
    figure, (axes,) = panels(height=0.8 + 0.28 * len(dots))
    names, values, spreads = zip(*dots)
    axes.errorbar(values, range(len(dots)), xerr=spreads, fmt="o", markersize=4, capsize=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(dots)), names)
    axes.invert_yaxis()
    label(axes, across, "")
    return svg(figure)


def svg(figure: Figure) -> str:
    """A figure's file."""
    file = io.StringIO()
    # No date and no random names: the same results give the same file. Text stays text, which is shorter.
    with rc_context({"svg.hashsalt": "lamemo", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def write_png(figure: Figure, path: Any) -> str:
    """Writes a figure as pixels; the path."""
    figure.savefig(Path(path), format="png", dpi=120)
    return str(path)
