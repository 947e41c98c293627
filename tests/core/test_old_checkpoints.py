"""Checkpoints of every kind that were written before the package had floors: they load, and score the same."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from conftest import ROOT
from fairseq import checkpoint_utils

import lamemo_fairseq  # noqa: F401  (registers)
from lamemo_fairseq.data.memory_store import MemoryStore

FOLDER = ROOT / "tests" / "checkpoints"
RECORD: Dict[str, Any] = json.loads((FOLDER / "scores.json").read_text())
SEGMENT = 8


def log_probs(path: Path) -> List[float]:
    """Log-probabilities of the recorded split's targets, read segment by segment."""
    overrides = {"data": str(FOLDER / "data-bin")}
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    decoder = models[0].eval().decoder
    task.load_dataset("valid")
    text = task.datasets["valid"]
    targets = text.span(0, text.total)
    sources = torch.cat([torch.tensor([task.dictionary.eos()]), targets[:-1]])
    store, found = MemoryStore("valid"), []
    with torch.no_grad():
        for start in range(0, text.total, SEGMENT):
            output = decoder(sources[None, start : start + SEGMENT], store=store, segment=start // SEGMENT)
            scores = decoder.get_normalized_probs(output, log_probs=True)[0]
            found.append(scores.gather(-1, targets[start : start + SEGMENT, None]).squeeze(-1))
    return torch.cat(found).tolist()


#: kinds that came later: nobody has an old checkpoint of them
YOUNGER = {"lookahead-none", "lookahead-detached"}


def test_every_kind_was_recorded() -> None:
    from family import KINDS

    assert set(RECORD) == set(KINDS) - YOUNGER


@pytest.mark.parametrize("kind", sorted(RECORD))
def test_an_old_checkpoint_scores_the_same(kind: str) -> None:
    expected = torch.tensor(RECORD[kind]["log_probs"])
    got = torch.tensor(log_probs(FOLDER / f"{kind}.pt"))
    # Orders of sums may change; single precision rounds each of some dozens of terms to 6e-8.
    torch.testing.assert_close(got, expected, rtol=0.0, atol=2e-6)
    # What fairseq-eval-lm printed then, to the last digit.
    nats = -got.double().mean().item()
    assert f" {nats:.6f} nats per token, {nats / math.log(2):.6f} bits per character " in RECORD[kind]["line"]
