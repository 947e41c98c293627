"""Interpreters of their own, e.g. without fairseq."""

import os
import subprocess
import sys
from pathlib import Path

from commands import ROOT

# A None in sys.modules makes an import fail, and tells find_spec that there is no such module.
BLOCKED = "import sys\nfor name in ('fairseq', 'hydra', 'omegaconf'):\n    sys.modules[name] = None\n"


def fresh(code: str, folder: Path, path: Path = ROOT, **environment: str) -> str:
    """Runs ``code`` in a new interpreter that finds the package in ``path``; its output."""
    given = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
