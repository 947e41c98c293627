"""The file of ``--csv-log``: one run, whose rows are those of its last word on each update."""

import csv
from pathlib import Path
from typing import Any, Dict, List

import pytest
from commands import Command, preprocess, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preprocess(tmp_path_factory.mktemp("csv"), 500)


def start(data: Path, save_dir: Path, table: Path, updates: int, *flags: Any, **environment: str) -> Command:
    words = ["--csv-log", table, "--validate-interval-updates", 2, "--max-update", updates, *flags]
    return train(data, save_dir, *words, disable_validation=False, **environment)[0]


def rows(table: Path) -> List[Dict[str, str]]:
    return list(csv.DictReader(table.open(encoding="utf-8")))


def updates(table: Path) -> List[str]:
    """``3`` for an update, ``v4`` for a validation."""
    return [("v" if row["split"] == "valid" else "") + row["num_updates"] for row in rows(table)]


def test_a_resumed_run_replaces_what_it_does_again(data: Path, tmp_path: Path) -> None:
    """Killed behind its checkpoint, in the middle of a row: each update stands there once."""
    table, run = tmp_path / "log.csv", tmp_path / "run"
    start(data, run, table, 3).succeed()
    assert updates(table) == ["1", "2", "v2", "3", "v3"]
    whole = table.read_text(encoding="utf-8")
    old = whole.splitlines()[1].replace("1,train", "4,train")
    table.write_text(whole + old + "\n" + old[:20], encoding="utf-8")
    start(data, run, table, 5).succeed()
    assert updates(table) == ["1", "2", "v2", "3", "v3", "4", "v4", "5", "v5"]
    assert table.read_text(encoding="utf-8").startswith(whole)
    assert old not in table.read_text(encoding="utf-8")
    assert {row["run"] for row in rows(table)} == {str(run)}


def test_a_run_that_begins_anew_begins_a_new_file(data: Path, tmp_path: Path) -> None:
    table, run = tmp_path / "log.csv", tmp_path / "run"
    for count in (1, 2, 3):
        output = start(data, run, table, count, "--no-save").succeed()
        assert updates(table)[-1] == f"v{count}" and updates(table)[0] == "1"
    assert f"--csv-log {table} is begun anew, as training is; what it held is now {table}.2" in output
    assert [updates(tmp_path / f"log.csv.{count}")[-1] for count in (1, 2)] == ["v1", "v2"]


@pytest.mark.parametrize("case", ["another run", "other columns", "no folder", "no text"])
def test_what_is_refused(data: Path, tmp_path: Path, case: str) -> None:
    table = tmp_path / ("no/log.csv" if case == "no folder" else "log.csv")
    line = f"error: --csv-log {table} "
    if case == "another run":
        start(data, tmp_path / "first", table, 1).succeed()
        line += f"holds the log of the run in {tmp_path}/first, not of the one in {tmp_path}/second: name another file"
    elif case == "other columns":
        table.write_text("num_updates,loss\n1,2.5\n")
        line += "holds other columns than this version's: name another file"
    elif case == "no folder":
        line += "cannot be written to (No such file or directory): name another file"
    else:
        table.write_bytes(b"\xff\xfe\n")
        line += "cannot be written to ('utf-8' codec"
    before = table.read_bytes() if table.exists() else b""
    output = start(data, tmp_path / "second", table, 2).fail()
    assert output.splitlines()[-1].startswith(line) and "Traceback" not in output
    assert (table.read_bytes() if table.exists() else b"") == before, "what was refused is left alone"


def test_a_disk_that_fills_up_costs_rows_not_the_run(data: Path, tmp_path: Path) -> None:
    """The file is as long as a file may become, but for one row and a half; the checkpoint is shorter."""
    table, run = tmp_path / "log.csv", tmp_path / "run"
    start(data, run, table, 2).succeed()
    row = table.read_text(encoding="utf-8").splitlines()[1] + "\r\n"
    with table.open("a", newline="", encoding="utf-8") as file:
        file.write(row * (300_000 // len(row)))
    size = table.stat().st_size
    limit = size + len(row) + len(row) // 2
    output = start(data, run, table, 6, "--no-save", TEST_FILE_SIZE_LIMIT=str(limit)).succeed()
    assert output.count("cannot be written to (File too large): rows are missing there from update 4 on") == 1
    assert output.count("--csv-log") == 1 and "num_updates" in output.split("from update 4 on")[1]
    after = table.read_text(encoding="utf-8")
    assert after.endswith("\n") and updates(table)[-1] == "3"
