"""scripts/benchmark.py prints what it promises. Speed itself is measured there, never asserted here."""

import os
import re
import subprocess
import sys

import pytest
from commands import ROOT


@pytest.mark.slow  # it measures for a minute
def test_the_decode_part() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "decode", "--repeats", "1", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    title, head, *rows = done.stdout.strip().splitlines()
    assert title.startswith("decode: 6 layers") and "ms/token" in head and "ratio" in head
    assert [row.split()[0] for row in rows] == ["128", "512", "1024"]
    assert all(float(cell) > 0 for row in rows for cell in row.split())


def test_unknown_parts_are_named() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "decoding"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and re.search("decoding is no part: choose of decode, eval", done.stderr)
