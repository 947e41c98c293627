"""Table and figure of ``lamemo diagnose``, from its CSV alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Dict, List, Sequence

from ..core.errors import UsageError
from ..evaluation import plotting
from .diagnostic import DONE, INTERVAL, TABLE, USUAL, Condition
from .kinds import KINDS
from .tables import Row, Table, grouped

ORDERED = [*USUAL, *(kind for kind in KINDS if kind not in USUAL)]
HEADS = ("condition", "kind", "seeds", "solved", "median update", "solved at", "best accuracy of the others")


def condition(row: Row) -> str:
    """What is not the default, in words; labels are always said."""
    usual = Condition().__dict__
    told = [f"{name}={row[name]}" for name, value in usual.items() if name != "order" and row[name] != str(value)]
    return " ".join([{"close": "closing labels", "open": "opening labels", "chain": "chains"}[row["order"]], *told])


def latest(rows: Sequence[Row]) -> List[Row]:
    """Each run once: as it ended last."""
    keys = ("kind", "seed", *Condition().__dict__)
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def curve(row: Row) -> List[float]:
    """Accuracies of a run, one every INTERVAL updates."""
    return [float(accuracy) for accuracy in row["curve"].split()]


def median(runs: Sequence[Row]) -> str:
    """The median update of solving, where unsolved runs come last; in words where it is none of those that solved."""
    at = sorted(float(row["solved_at"] or "inf") for row in runs)
    middle = statistics.median_high(at)
    return "-" if middle == float("inf") else f"{middle:.0f}"


def table(rows: Sequence[Row]) -> Table:
    """Heads and lines: kinds by condition, of runs that came to their end."""
    lines = []
    whole = [{**row, "condition": condition(row)} for row in latest(rows) if row["status"] in DONE]
    for (told,), mine in sorted(grouped(whole, "condition").items()):
        kinds = grouped(mine, "kind")
        for kind in ORDERED:
            runs = kinds.get((kind,), [])
            if not runs:
                continue
            solved = sorted(int(row["solved_at"]) for row in runs if row["status"] == "solved")
            others = sorted(max(curve(row)) for row in runs if row["status"] != "solved")
            best = ", ".join(f"{accuracy:.0f} %" for accuracy in others)
            cells = [str(len(runs)), str(len(solved)), median(runs), ", ".join(map(str, solved)), best]
            lines.append([told, kind, *cells])
    return list(HEADS), lines


def figures(rows: Sequence[Row]) -> Dict[str, str]:
    """Accuracy against updates, a line a seed and a panel a kind: SVG by name."""
    found: Dict[str, str] = {}
    whole = [{**row, "condition": condition(row)} for row in latest(rows) if row["curve"]]
    for (told,), mine in grouped(whole, "condition").items():
        kinds = [kind for kind in ORDERED if any(row["kind"] == kind for row in mine)]
        figure, panels = plotting.panels(len(kinds), width=1 + 2 * len(kinds), height=2.6, share_y=True)
        for kind, axes in zip(kinds, panels):
            for row in mine:
                if row["kind"] == kind:
                    accuracies = curve(row)
                    axes.plot([INTERVAL * number for number in range(1, len(accuracies) + 1)], accuracies, linewidth=1)
            axes.set_title(kind, fontsize=10)
            axes.set_xlim(0, int(mine[0]["updates"]))
            axes.set_ylim(0, 101)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("answers right, %")
        figure.supxlabel("updates", fontsize=10)
        figure.suptitle(f"{told}: a line per seed", fontsize=10)
        name = "-".join(["diagnostic", *told.replace(" labels", "").replace("=", "-").split()])
        found[name] = plotting.svg(figure)
    return found


def write(folder: Path, rows: Sequence[Row]) -> None:
    """``diagnostic-table.md`` and the figures, beside the CSV."""
    if not rows:
        raise UsageError(f"{folder} holds no {TABLE}: name a folder that lamemo diagnose has made")
    heads, lines = table(rows)
    told = "".join(f"| {' | '.join(row)} |\n" for row in (heads, ["---"] * len(heads), *lines))
    counts = {status: sum(row["status"] == status for row in rows) for status in (*DONE, "stopped", "failed")}
    told += "\n" + ", ".join(f"{number} {status}" for status, number in counts.items()) + "\n"
    (folder / "diagnostic-table.md").write_text(told, encoding="utf-8")
    print(told, end="")
    for name, picture in figures(rows).items():
        (folder / f"{name}.svg").write_text(picture, encoding="utf-8")
