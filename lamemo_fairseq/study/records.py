"""Results as tables, figures and one page: of a study (``lamemo study``) or of a training directory.

    lamemo report FOLDER --report report.html

A study's folder holds ``results.csv``, ``runs/`` with a curve for each run and, where there are any, ``memory.csv``
(columns corpus, condition, kind, seed, length, bits), ``attention.csv`` (columns corpus, condition, kind, seed,
distance, share: the attention that one slot that far back gets, averaged over layers and heads) and ``alpha.csv``
(columns corpus, condition, kind, seed, length, layer, mean, near_0, near_1). Bits are bits per token: bits per
character of characters, and the logarithm of the perplexity of words.
"""

import csv
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from ..core.errors import UsageError
from ..evaluation.plotting import Series, dot_plot, draw
from .curves import ADVICE, find
from .page import Page
from .sample import configuration, open_checkpoint, sample
from .tables import (
    BASE,
    NEAR_0,
    NEAR_1,
    Row,
    Table,
    alphas,
    average,
    average_curves,
    differences,
    gaps,
    grouped,
    in_words,
    mean_and_spread,
    mean_of,
)


def read_csv(path: Path) -> List[Row]:
    """Rows of a file, none where there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SUMMARY_NOTE = (
    "Bits per token. ± is the standard deviation over seeds; seconds are those of training alone, the seeds' median."
)
DIFFERENCES_NOTE = (
    "Test bits less those of recurrence with the same seed: the mean, and ± the standard deviation of the differences; "
    "below 0 is better than recurrence. Seconds are medians. Where a kind is ahead is read off the validation curves, "
    "means over seeds; at equal seconds one run is further in its learning rate schedule than the other, which is not "
    "corrected for."
)
ALPHA_NOTE = (
    "The weight of what a memory slot held before it looked ahead: its mean, and in brackets how many of them are "
    f"below {NEAR_0} (the old is forgotten) and above {NEAR_1} (looking ahead changes nothing)."
)


@dataclass
class Study:
    """Finished runs of a study.

    Attributes:
        rows: one per run, as in ``results.csv``.
        curves: one row per validation of each run.
        memory: as in ``memory.csv``.
        attention: as in ``attention.csv``.
        alphas: as in ``alpha.csv``.
    """

    rows: List[Row]
    curves: List[Row]
    memory: List[Row] = field(default_factory=list)
    attention: List[Row] = field(default_factory=list)
    alphas: List[Row] = field(default_factory=list)

    @staticmethod
    def read(folder: Path) -> "Study":
        """The study in ``folder``."""
        curves = []
        for path in sorted(folder.glob("runs/*/*/*/*/row.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            for point in json.loads((path.parent / "curve.json").read_text(encoding="utf-8")):
                curves.append({k: str(v) for k, v in {**run, **point}.items()})
        rows = read_csv(folder / "results.csv")
        looks = (read_csv(folder / f"{name}.csv") for name in ("memory", "attention", "alpha"))
        return Study(rows, curves, *looks)

    def summary(self) -> Table:
        """Heads and lines of a table: kinds by corpus and condition, best first."""
        heads = ["corpus", "condition", "kind", "seeds", "parameters", "updates", "seconds", "valid bits", "test bits"]
        lines = []
        for where, runs in grouped(self.rows, "corpus", "condition").items():
            kinds = grouped(runs, "kind")
            for (kind,), mine in sorted(kinds.items(), key=lambda item: mean_of(item[1], "test_bits")):
                seconds = statistics.median(float(run["seconds"]) for run in mine)
                scores = [mean_and_spread([float(run[name]) for run in mine]) for name in ("valid_bits", "test_bits")]
                shown = [in_words(mean, spread, len(mine)) for mean, spread in scores]
                size = f"{int(mine[0]['parameters']):,}"
                lines.append([*where, kind, str(len(mine)), size, mine[0]["updates"], f"{seconds:.0f}", *shown])
        return heads, lines

    def tables(self) -> List[Tuple[str, Table, str]]:
        """Title, table and note of everything that is told in numbers."""
        found = [("Results", self.summary(), SUMMARY_NOTE)]
        compared = differences(self.rows, self.curves)
        if compared[1]:
            found.append(("Against recurrence", compared, DIFFERENCES_NOTE))
        if self.alphas:
            found.append(("Alpha", alphas(self.alphas), ALPHA_NOTE))
        return found

    def table(self) -> str:
        """The tables as Markdown."""
        text = ""
        for title, (heads, lines), note in self.tables():
            rows = "".join(f"| {' | '.join(row)} |\n" for row in (heads, ["---"] * len(heads), *lines))
            text += f"## {title}\n\n{rows}\n{note}\n\n"
        return text

    def figures(self) -> Dict[str, str]:
        """SVG by name."""
        pictures = {}
        for name, points in by_condition(self.curves):
            for x, across in (("updates", "updates"), ("seconds", "seconds of training")):
                lines, bands = average_curves(points, x)
                pictures[f"{name}-{x}"] = draw(lines, across, "bits per token (valid)", bands)
        covered, back = "tokens that the memory covers when scored", "slots back (a compressed slot is one)"
        for what, rows, x, y, across, up, log in (
            ("memory", self.memory, "length", "bits", covered, "bits per token", "x"),
            ("attention", self.attention, "distance", "share", back, "attention per slot", "y"),
        ):
            for name, points in by_condition(rows):
                lines, bands = average(points, x, y)
                pictures[f"{name}-{what}"] = draw(lines, across, up, bands, log)
        return {**pictures, **self.conditions()}

    def conditions(self) -> Dict[str, str]:
        """Each kind against recurrence under all conditions, where there is more than one: SVG by name."""
        pictures: Dict[str, str] = {}
        found = gaps(self.rows)
        for kind in sorted({gap.kind for gap in found if gap.condition}):
            mine = [gap for gap in found if gap.kind == kind]
            names = [f"{gap.corpus} {gap.condition}".strip() for gap in mine]
            dots = [(name, gap.bits, gap.spread) for name, gap in zip(names, mine)]
            pictures[f"conditions-{kind}"] = dot_plot(dots, f"test bits less {BASE}'s (left: better)")
        return pictures


def by_condition(rows: Sequence[Row]) -> List[Tuple[str, List[Row]]]:
    """Rows by what their figures are called after: the corpus, and the condition if there is one."""
    groups = grouped(rows, "corpus", "condition").items()
    return [(f"{corpus}-{condition}".strip("-"), mine) for (corpus, condition), mine in groups]


def study_page(folder: Path, page: Page) -> None:
    """A study on a page."""
    results = Study.read(folder)
    for title, table, note in results.tables():
        page.heading(title)
        page.table(*table)
        page.text(note)
    for name, picture in results.figures().items():
        page.figure(name, picture)
    about = folder / "about.json"
    if about.exists():
        page.heading("Configuration")
        page.table(["what", "value"], [[k, v] for k, v in json.loads(about.read_text(encoding="utf-8")).items()])
    page.heading("Runs")
    page.table(list(results.rows[0]), [list(row.values()) for row in results.rows])
    for path in sorted(folder.glob("runs/*/*/*/*/sample.txt")):
        page.sample(str(path.parent.relative_to(folder / "runs")), path.read_text(encoding="utf-8"))


def seconds_in_words(seconds: float) -> str:
    """Seconds for a table; some logs say nothing of them."""
    return "not logged" if math.isnan(seconds) else f"{seconds:.0f}"


def training_page(folder: Path, page: Page) -> None:
    """A training directory on a page: its checkpoint's configuration, its log's curve, a sample of its text."""
    lm = open_checkpoint(folder / "checkpoint_last.pt")
    found = find(folder)
    if not found:
        page.heading("Training")
        page.text(ADVICE)
    for name, points in found:
        page.heading(f"Training ({name})")
        curve: Series = {"valid": [(point["updates"], point["bpc"]) for point in points]}
        page.figure("valid", draw(curve, "updates", "bits per token"))
        rows = [[f"{p['updates']:.0f}", seconds_in_words(p["seconds"]), f"{p['bpc']:.4f}"] for p in points]
        page.table(["updates", "seconds", "valid bits per token"], rows)
    page.heading("Sample")
    page.sample("from an empty memory, temperature 1, seed 1", sample(lm, tokens=400, seed=1))
    page.heading("Configuration")
    page.table(["flag", "value"], [[name, value] for name, value in configuration(lm)])


def write_page(folder: Path, path: Path) -> None:
    """One self-contained page from a study or a training directory."""
    makers: Dict[str, Callable[[Path, Page], None]] = {
        "results.csv": study_page,
        "checkpoint_last.pt": training_page,
    }
    for proof, make in makers.items():
        if (folder / proof).exists():
            page = Page(folder.resolve().name)
            make(folder, page)
            path.write_text(page.render(), encoding="utf-8")
            return
    raise UsageError(f"{folder} holds no results.csv and no checkpoint_last.pt: name a study or a --save-dir")
