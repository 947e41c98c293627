"""The walk-through of ``examples/new_memory/README.md``, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

README = ROOT / "examples" / "new_memory" / "README.md"
# A path, a place in it or none, and the lines that go there.
STEP = re.compile(r"(?:In )?`([\w/.]+\.py)`(?:, below `([^`]+)`)?:\n\n```python\n(.*?)```", re.DOTALL)


def follow(readme: str, root: Path) -> int:
    """Does what the page says; returns how many lines that were."""
    lines = 0
    for path, place, code in STEP.findall(readme):
        target = root / path
        if place:
            before = target.read_text()
            assert before.count(place + "\n") == 1, f"{path} has no line {place}"
            target.write_text(before.replace(place + "\n", place + "\n" + code))
        else:
            assert not target.exists()
            target.write_text(code)
        lines += code.count("\n")
    return lines


def test_the_walk_through(tmp_path: Path) -> None:
    readme = README.read_text()
    for folder in ("lamemo_fairseq", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert 10 < follow(readme, tmp_path) < 100
    command = re.search(r"```bash\npython (.*)\n```", readme)
    assert command
    done = subprocess.run(
        [sys.executable, *command.group(1).split(), "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    refused = "from lamemo_fairseq.plugin.config import LaMemoConfig; LaMemoConfig(stride=3).check()"
    other = subprocess.run(
        [sys.executable, "-c", refused],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "--stride 3 needs --memory-type strided, not --memory-type lookahead" in other.stderr
    contract = (ROOT / "tests" / "core" / "test_contract.py").read_text().count("@every_kind")
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= 2 * contract
