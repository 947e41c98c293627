"""lamemo benchmark prints what it promises. Speed itself is measured there, never asserted here."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from lamemo_fairseq.core.memory import KINDS


@pytest.mark.slow  # it measures for a minute
def test_the_decode_part() -> None:
    words = [sys.executable, "-m", "lamemo_fairseq", "benchmark", "decode", "--repeats", "1", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    title, head, *rows = done.stdout.strip().splitlines()
    assert title.startswith("decode: 6 layers") and "ms/token" in head and "ratio" in head
    assert [row.split()[0] for row in rows] == ["128", "512", "1024"]
    assert all(float(cell) > 0 for row in rows for cell in row.split())


@pytest.mark.slow  # eleven seconds of imports and tiny models
def test_ratios_by_name(tmp_path: Path) -> None:
    """What a check elsewhere reads; --suite cpu has the peers too (tests/benchmark/test_peers.py)."""
    out = tmp_path / "ratios.json"
    words = [sys.executable, "-m", "lamemo_fairseq", "benchmark", "train", "lengths", "decode", "eval", "--tiny"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    more = ["--threads", "1", "--repeats", "1", "--json", str(out), "--figures", str(tmp_path)]
    done = subprocess.run([*words, *more], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert list(found["ratios"]) == [
        *(f"train_lookahead_over_recurrence_mem{memory}" for memory in (128, 512, 1024)),
        "train_time_mem512_over_mem128",
        "train_time_mem1024_over_mem512",
        *(f"decode_recompute_over_incremental_mem{memory}" for memory in (128, 512, 1024)),
    ]
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert [table["title"].split(":")[0] for table in found["tables"]] == ["train", "lengths", "decode", "eval"]
    assert all(len(row) == len(table["head"]) for table in found["tables"] for row in table["rows"])
    kinds = [row[0] for row in found["tables"][1]["rows"]]
    assert kinds == [kind for kind in KINDS for _ in range(3)]
    figure = (tmp_path / "lengths.svg").read_text()
    assert all(f">{kind}</text>" in figure for kind in KINDS)


def test_unknown_parts_are_named() -> None:
    """By the old spelling, which says what is new."""
    words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "decoding"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    told, problem = done.stderr.splitlines()
    assert told == "scripts/benchmark.py is now: lamemo benchmark"
    assert problem.startswith("lamemo benchmark: decoding is no part: choose of decode, ")


@pytest.mark.slow  # it makes machine code for three models, a minute or more
def test_gpu_check_runs_without_a_gpu(tmp_path: Path) -> None:
    """With the device named, so that it does not fall over at its first line where there is a GPU."""
    out = tmp_path / "report"
    words = ["bash", str(ROOT / "scripts" / "gpu_check.sh"), "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(out.with_suffix(".json").read_text())
    table = found["tables"][0]
    assert [row[:4] for row in table["rows"]] == [
        ["lamemo_lm_small", "lookahead", dtype, mode]
        for dtype in ("float32", "float16", "bfloat16")
        for mode in ("eager", "compiled")
    ]
    for row in table["rows"]:  # times, speed, operations, floor; no row says that something failed
        assert all(float(cell) > 0 for cell in row[4:8]) and row[8].endswith("%"), row
    assert [note.split(" ")[0] for note in found["notes"]] == [
        "scripts/gpu_check.sh",
        f"{platform.machine()},",
        "tests",
    ]
    assert "skipped" in found["notes"][2]
    page = out.with_suffix(".md").read_text()
    assert all(f"- {note}" in page for note in found["notes"]) and "| share of the floor |" in page
