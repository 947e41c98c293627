"""What a study tells: tables, figures, and a page that needs nothing but itself."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import ROOT

from lamemo_fairseq.evaluation import plotting
from lamemo_fairseq.study import grid as study
from lamemo_fairseq.study import records as results
from lamemo_fairseq.study import tables as compare

BITS = {("lookahead", 1): 2.40, ("lookahead", 2): 2.50, ("recurrence", 1): 2.30, ("recurrence", 2): 2.32}


def write_run(folder: Path, condition: str, kind: str, seed: int, bits: float) -> Path:
    """What a finished run leaves, but for what was looked at."""
    run = folder / "runs" / "shakespeare" / (condition or "base") / kind / f"seed{seed}"
    run.mkdir(parents=True)
    row = {"corpus": "shakespeare", "condition": condition, "kind": kind, "seed": seed, "parameters": 1000 + seed}
    row.update(updates=40, seconds=7.0 * seed, valid_bits=bits + 0.1, test_bits=bits, revision="abc<def>")
    (run / "row.json").write_text(json.dumps(row))
    curve = [{"updates": u, "seconds": seed * u / 10, "bpc": bits + 10 / u} for u in (20, 30, 40)]
    (run / "curve.json").write_text(json.dumps(curve))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a finished study of two kinds with two seeds leaves."""
    for (kind, seed), bits in BITS.items():
        run = write_run(tmp_path, "", kind, seed, bits)
        looks: List[Dict[str, Any]] = [{"attention": True, "mem_len": M, "loss_nats": 1 + 1 / (M + 1)} for M in (0, 8)]
        for look in looks:
            look["attention_by_distance"] = [None, 0.2, 0.1]
            refreshed = kind == "lookahead" and look["mem_len"]
            look["alpha_by_layer"] = [0.5 + seed / 10] if refreshed else []
            look["alpha_histogram_by_layer"] = [[0.25, *[0.0] * 18, 0.75], []] if refreshed else [[], []]
        (run / "look.json").write_text(json.dumps(looks))
    study.finish(study.parse([str(tmp_path), "--report", str(tmp_path / "report.html")]))
    return tmp_path


def test_one_row_per_run(folder: Path) -> None:
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["kind"], int(row["seed"])): float(row["test_bits"]) for row in rows} == BITS
    wanted = {"corpus", "kind", "seed", "parameters", "updates", "seconds", "valid_bits", "test_bits", "revision"}
    assert wanted < rows[0].keys()


def test_mean_and_spread(folder: Path) -> None:
    table = (folder / "table.md").read_text().splitlines()
    assert table[0] == "## Results" and "recurrence" in table[4]  # best first
    assert "2.4500 ± 0.0707" in table[5] and "2.3100 ± 0.0141" in table[4]
    assert compare.in_words(2.5, 0.0, 1) == "2.5000"  # one seed has no spread


def test_kinds_against_recurrence(folder: Path) -> None:
    # By seed 0.10 and 0.18; medians of 7 and 14 seconds.
    [line] = [line for line in (folder / "table.md").read_text().splitlines() if "+0." in line]
    assert line == "| shakespeare |  | lookahead | +0.1400 ± 0.0566 | 10 : 10 | behind throughout | behind throughout |"


def test_how_often_alpha_is_near_its_ends(folder: Path) -> None:
    with open(folder / "alpha.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["length"], row["layer"], row["mean"]) for row in rows] == [
        *(("1", "8", "1", "0.6"), ("2", "8", "1", "0.7"))
    ]
    assert "| shakespeare |  | lookahead | 8 | 0.65 (25.0%, 75.0%) |" in (folder / "table.md").read_text()


CURVES = {
    "ahead throughout": ([(0, 1), (10, 0)], [(0, 2), (10, 1)]),
    "behind throughout": ([(0, 2), (10, 1)], [(0, 1), (10, 0)]),
    "ahead from 5 on": ([(0, 2), (10, 0)], [(0, 1), (10, 1)]),
    "behind from 15 on": ([(0, 0), (20, 2)], [(10, 1.5), (20, 1.5), (40, 0)]),
    "level": ([(0, 2), (10, 1)], [(0, 2), (10, 1)]),
    "ahead throughout ": ([(0, 1), (5, 1), (10, 1)], [(0, 2), (5, 1), (10, 2)]),  # touching is no crossing
    "crosses at 5, 15; behind at the end": ([(0, 2), (10, 0), (20, 2)], [(0, 1), (20, 1)]),
    "nowhere comparable": ([(0, 2), (10, 0)], [(20, 1), (40, 1)]),
}


@pytest.mark.parametrize("found", sorted(CURVES))
def test_where_curves_cross(found: str) -> None:
    assert compare.crossings(*CURVES[found]) == found.strip()


def runs(values: Dict[str, List[float]]) -> List[Dict[str, str]]:
    """Validations by seed, at updates 10, 20, ..."""
    return [
        {"seed": seed, "updates": str(10 * n + 10), "bpc": str(bits)}
        for seed, points in values.items()
        for n, bits in enumerate(points)
    ]


BASE_RUNS = {"1": [3.0, 2.0, 1.0], "2": [3.2, 2.2, 1.2]}
VERDICTS = {
    "no verdict: fewer than 2 seeds": ({"1": [1.0, 1.0, 0.0]}, {"1": [3.0, 2.0, 1.0]}),
    "no verdict: fewer than 3 points": ({"1": [1.0, 1.0], "2": [1.0, 1.0]}, BASE_RUNS),
    "level within the spread": ({"1": [2.998, 1.998, 0.998], "2": [3.198, 2.198, 1.198]}, BASE_RUNS),
    "ahead throughout": ({"1": [2.0, 1.0, 0.0], "2": [2.2, 1.2, 0.2]}, BASE_RUNS),
    "ahead from 15 on": ({"1": [4.0, 1.0, 0.0], "2": [4.2, 1.2, 0.2]}, BASE_RUNS),
    "ahead at 1 of 3 points, else within the spread": ({"1": [3.0, 2.0, 0.0], "2": [3.2, 2.2, 0.2]}, BASE_RUNS),
}


@pytest.mark.parametrize("found", sorted(VERDICTS))
def test_no_verdict_beyond_what_runs_carry(found: str) -> None:
    mine, base = VERDICTS[found]
    assert compare.verdict(runs(mine), runs(base), "updates") == found


def test_seeds_meet_where_all_of_them_were_validated() -> None:
    """A run that was stopped has a validation more, which must not shift the others."""
    curves = {"1": [(20, 4.0), (40, 3.0)], "2": [(13, 9.0), (20, 5.0), (40, 4.0)]}
    rows = [{"seed": seed, "updates": str(u), "bpc": str(b)} for seed, points in curves.items() for u, b in points]
    assert compare.mean_curve(rows, "updates") == [(20, 4.5), (40, 3.5)]


def test_what_curves_show() -> None:
    """Means over seeds of the losses and of where they were taken, and the losses' standard deviation."""
    curves = {"1": [(20, 2.0, 4.0), (40, 4.0, 3.0)], "2": [(20, 4.0, 5.0), (40, 8.0, 3.0)]}
    rows = [
        {"kind": "none", "seed": seed, "updates": str(u), "seconds": str(s), "bpc": str(b)}
        for seed, points in curves.items()
        for u, s, b in points
    ]
    spread = pytest.approx(0.5**0.5)
    for lines, bands, (first, second) in (
        (*compare.average_curves(rows, "seconds"), (3.0, 6.0)),
        (*compare.average_curves(rows, "updates"), (20.0, 40.0)),
        (*compare.average(rows, "updates", "bpc"), (20.0, 40.0)),
    ):
        assert lines == {"none": [(first, 4.5), (second, 3.0)]}
        assert bands == {"none": [(first, spread), (second, 0.0)]}


def test_figures(folder: Path) -> None:
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {f"shakespeare-{what}" for what in ("updates", "seconds", "memory", "attention")}
    before = {path.name: path.read_text() for path in folder.glob("*.svg")}
    assert results.Study.read(folder).figures() == {name[:-4]: text for name, text in before.items()}
    assert all("lookahead" in text and "recurrence" in text for text in before.values())


def test_conditions_side_by_side(folder: Path) -> None:
    """A dot for each corpus and condition in which a kind and recurrence were trained with the same seed."""
    for condition, kinds in (("lr=0.1", ("lookahead", "recurrence")), ("lr=0.2", ("lookahead", "continuous"))):
        for kind in kinds:
            write_run(folder, condition, kind, 1, 2.0)
    study.finish(study.parse([str(folder)]))
    picture = (folder / "conditions-lookahead.svg").read_text()
    assert ">shakespeare<" in picture and ">shakespeare lr=0.1<" in picture and "lr=0.2" not in picture
    assert not (folder / "conditions-continuous.svg").exists()
    [line] = [line for line in (folder / "table.md").read_text().splitlines() if "| lr=0.1 | lookahead | +" in line]
    assert "| +0.0000 |" in line  # one seed has no spread


def test_axes_that_grow_by_factors() -> None:
    """Every doubling has its mark, and 0 a place; a band without width is none."""
    lines = {"recurrence": [(float(M), 3 - M / 1000) for M in (0, 64, 256)]}
    picture = plotting.draw(lines, "", "", log="x")
    assert all(f">{M}<" in picture for M in (0, 32, 64, 128, 256))
    assert ">32<" not in plotting.draw(lines, "", "")
    assert plotting.draw(lines, "", "", {"recurrence": [(M, 0.0) for M, _ in lines["recurrence"]]}, "x") == picture


class Parts(HTMLParser):
    """What a page asks for, and the names in it."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: List[str] = []
        self.names: List[str] = []
        self.open: List[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        values: Dict[str, str] = dict(attributes)
        self.names += [values["id"]] if "id" in values else []
        self.asks += [values[name] for name in ("src", "href", "xlink:href", "data") if name in values]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    parts = Parts()
    parts.feed(page)
    assert not parts.open
    assert len(parts.names) == len(set(parts.names)) > 50
    for ask in parts.asks:
        assert ask == "data:," or (ask.startswith("#") and ask[1:] in parts.names), ask
    assert "<script" not in page and "url(http" not in page and "@import" not in page
    assert "abc&lt;def&gt;" in page and page.count("<svg") == 4


# Starts a browser, which the machine has only if its packages chromium and chromium-driver are installed.
@pytest.mark.slow
def test_the_page_opens_in_a_browser(folder: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium chromium-driver")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        + ["--enable-logging=stderr", "--virtual-time-budget=2000", "--window-size=1000,1600"]
        + [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "<h2>Results</h2>" in done.stdout and done.stdout.count("</svg>") == 4
    assert not re.findall(r".*(?:CONSOLE|ERR_[A-Z_]+).*", done.stderr)


# Starts Python twice, with fairseq and a model.
@pytest.mark.slow
def test_the_commands_old_and_new(folder: Path, tmp_path: Path) -> None:
    for module, said in (("lamemo_fairseq report", ""), ("lamemo_fairseq.results", "is now: lamemo report")):
        command = [sys.executable, "-m", *module.split(), str(folder), "--report", str(tmp_path / "page.html")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and said in done.stderr and "wrote" in done.stdout, done.stderr
        assert "<h2>Results</h2>" in (tmp_path / "page.html").read_text()
