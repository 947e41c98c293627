"""``lamemo diagnose``: what a run is, when it has solved the task, what is tried again, and the report."""

import csv
from pathlib import Path
from typing import Any, Dict, List

import pytest
from pytest import CaptureFixture

from lamemo_fairseq.cli.main import main
from lamemo_fairseq.study import diagnostic, diagnostic_report


def row(kind: str, seed: int, status: str, curve: str, **changes: Any) -> Dict[str, str]:
    """A row of the table."""
    key = diagnostic.Run(Path(), diagnostic.Condition(**changes), kind, seed).key
    at = diagnostic.solved_at([float(point) for point in curve.split()]) if status == "solved" else ""
    told = {"status": status, "solved_at": str(at), "last_update": "", "seconds": "1", "revision": "x", "curve": curve}
    return {**key, **told}


def test_solved_is_two_successive_points() -> None:
    assert diagnostic.solved_at([]) == diagnostic.solved_at([99.0]) == diagnostic.solved_at([99.0, 50.0, 99.0]) == 0
    assert diagnostic.solved_at([10.0, 90.0, 90.0, 10.0]) == 2 * diagnostic.INTERVAL


def test_every_kind_and_condition_is_another_run() -> None:
    one, other = diagnostic.Condition(), diagnostic.Condition(lr=0.002)
    runs = [diagnostic.Run(Path("d"), c, kind, 1) for c in (one, other) for kind in diagnostic.USUAL]
    assert len({tuple(run.command()) for run in runs}) == len({tuple(run.key.values()) for run in runs}) == len(runs)
    assert len({run.data() for run in runs}) == 1  # kinds and rates read the same text


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--kinds", "elephant"], "--kinds elephant is not known"),
        (["--lr", "fast"], "a flag's value is no number"),
        (["--seeds", "x"], "--seeds x is no list of whole numbers"),
        (["--report"], "holds no diagnostic.csv"),
    ],
)
def test_wrong_flags(flags: List[str], line: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    assert main(["diagnose", str(tmp_path / "d"), *flags]) == 1
    assert line in capsys.readouterr().err


def test_report(tmp_path: Path, capsys: CaptureFixture) -> None:
    """A run that was stopped and then ended counts once, as it ended; medians put unsolved runs last."""
    rows = [
        row("lookahead", 1, "stopped", "12.0 13.0"),
        row("lookahead", 1, "solved", "20.0 95.0 96.0"),
        row("lookahead", 2, "solved", "20.0 20.0 95.0 96.0"),
        row("lookahead", 3, "unsolved", "20.0 25.5 25.0"),
        row("recurrence", 1, "unsolved", "12.0 24.0"),
        row("recurrence", 1, "failed", "", order="open", lr=0.002),
    ]
    for one in rows:
        diagnostic.append(tmp_path, one)
    assert main(["diagnose", str(tmp_path), "--report"]) == 0
    told = (tmp_path / "diagnostic-table.md").read_text()
    assert told in capsys.readouterr().out
    assert "| closing labels | lookahead | 3 | 2 | 150 | 100, 150 | 26 % |" in told
    assert "| closing labels | recurrence | 1 | 0 | - |  | 24 % |" in told
    assert "2 solved, 2 unsolved, 1 stopped, 1 failed" in told
    assert [path.name for path in tmp_path.glob("*.svg")] == ["diagnostic-closing.svg"]
    assert diagnostic_report.condition(rows[-1]) == "opening labels lr=0.002"


@pytest.mark.slow  # trains twice, in processes of their own
def test_the_grid_is_run_and_gone_on_with(tmp_path: Path) -> None:
    flags = [*("--tokens", "16", "--rows", "4", "--items", "15", "--labels", "2", "--updates", "100")]
    asked = ["diagnose", str(tmp_path), "--kinds", "refresh", "--seeds", "1", *flags]
    assert main([*asked, "--time-budget", "0"]) == 0
    assert not diagnostic.read(tmp_path)
    assert main(asked) == 0
    assert main([*asked, "--order", "close,open"]) == 0
    with open(tmp_path / diagnostic.TABLE, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [(one["order"], one["status"], one["last_update"]) for one in found] == [
        ("close", "unsolved", "100"),
        ("open", "unsolved", "100"),
    ]
    assert all(len(one["curve"].split()) == 2 for one in found)
