"""Weights that are not finite: every evaluation ends in one line and a status that is not 0, and gives no number."""

from pathlib import Path

import pytest
import torch
from conftest import run
from test_grid import main

from lamemo_fairseq.core.errors import UsageError


@pytest.fixture(scope="module")
def poisoned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, one of whose weights is NaN."""
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["model"].values())).view(-1)[-1] = float("nan")
    path = tmp_path_factory.mktemp("poisoned") / "model.pt"
    torch.save(state, path)
    return path


def test_eval_lm(corpus: Path, poisoned: Path) -> None:
    flags = ["--task", "memory_language_modeling", "--path", poisoned, "--gen-subset", "test", "--cpu"]
    done = run("eval-lm", corpus, *flags, "--tokens-per-sample", 16, "--batch-size", 2, check=False)
    assert done.returncode != 0 and "Perplexity" not in done.stdout and "Traceback" not in done.stdout
    assert f"error: {poisoned}: the loss of 2" in done.stdout.splitlines()[-1]


def test_grid(corpus: Path, poisoned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{poisoned}: the loss of 2.* is nan: no perplexity is given"):
        main([str(corpus), "--path", str(poisoned), "--results-path", str(tmp_path / "out"), "--cpu"])
    assert not (tmp_path / "out").exists()


def test_validate(corpus: Path, poisoned: Path) -> None:
    flags = ["--task", "memory_language_modeling", "--path", poisoned, "--valid-subset", "valid", "--cpu"]
    done = run("validate", corpus, *flags, "--batch-size", 2, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"error: {poisoned}: the loss of")
