"""Weights that are not finite: every evaluation ends in one line and a status that is not 0, and gives no number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run
from test_grid import main

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli.main import main as lamemo
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


@pytest.mark.parametrize("command", ["score", "generate", "export"])
def test_plain_text(corpus: Path, poisoned: Path, tmp_path: Path, capsys: Any, command: str) -> None:
    """Of ``lamemo``; what is handed on is looked at too."""
    (tmp_path / "text").write_text("a\n")
    words = {"score": [tmp_path / "text"], "generate": ["--prompt", "a"], "export": [tmp_path / "out"]}[command]
    assert lamemo([command, *map(str, [poisoned, *words, "--data", corpus, "--bpe", "text_characters"])]) == 1
    done = capsys.readouterr()
    told = {"score": f"{poisoned} on ", "generate": f"{poisoned} gives scores that are not finite"}.get(command, "")
    assert done.out == "" and done.err.strip().splitlines()[-1].startswith(f"lamemo {command}: {told}")
    assert "not finite" in done.err.strip().splitlines()[-1] and not (tmp_path / "out").exists()


def test_in_python(corpus: Path, poisoned: Path) -> None:
    lm = LaMemoLanguageModel.from_pretrained(str(poisoned.parent), poisoned.name, str(corpus), bpe="text_characters")
    for ask in (lm.score, lm.sample, lambda text: list(lm.generate_stream(text))):
        with pytest.raises(UsageError, match=f"{poisoned} gives scores that are not finite"):
            ask("the")


def test_validate(corpus: Path, poisoned: Path) -> None:
    flags = ["--task", "memory_language_modeling", "--path", poisoned, "--valid-subset", "valid", "--cpu"]
    done = run("validate", corpus, *flags, "--batch-size", 2, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"error: {poisoned}: the loss of")
