"""The program of ``examples/plain_torch``, in an interpreter that has no fairseq."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT
from interpreters import BLOCKED

from lamemo_fairseq.core import KINDS, MemoryTransformer, ModelConfig

PROGRAM = ROOT / "examples" / "plain_torch" / "train.py"
RUN = "import runpy\nsys.argv[0] = {path!r}\nrunpy.run_path({path!r}, run_name='__main__')"


def test_it_is_short() -> None:
    assert len(PROGRAM.read_text().splitlines()) <= 80


def test_the_page_in_python() -> None:
    """Its lines run, on the names that they leave to the reader."""
    page = (PROGRAM.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"vocab_size": 11, "tokens": torch.arange(6).view(1, 6) + 4, "state": None}
    names.update(MemoryTransformer=MemoryTransformer, ModelConfig=ModelConfig)
    exec(compile(code, "README.md", "exec"), names)
    assert names["features"].shape[:2] == (1, 1) and names["state"] is not None, "decoded last"


@pytest.mark.parametrize("memory", sorted(KINDS))
def test_text_to_sample(memory: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"The {word} sat on the mat. " for word in ("cat", "dog", "fox")) * 60)
    words = [str(text), "--memory", memory, "--updates", "101", "--prompt", "The "]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + RUN.format(path=str(PROGRAM)), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r": ([\d.]+) nats", done.stdout)]
    assert len(losses) == 3 and losses[-1] < 0.5 * losses[0], "it learns"
    written = done.stdout.splitlines()[-1]
    assert written.startswith("The ") and len(written) == len("The ") + 200
