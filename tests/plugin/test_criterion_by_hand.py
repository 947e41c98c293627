"""The criterion by hand: what it returns, what it logs, and which criteria it refuses."""

import math
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from test_criterion import PAD, criterion

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.plugin.criterion import MemoryCrossEntropyCriterion, check_criterion


class Model(torch.nn.Module):
    """Answers with given log-probabilities, and with losses where it is given some."""

    def __init__(self, log_probs: torch.Tensor, **losses: float) -> None:
        super().__init__()
        self.log_probs = torch.nn.Parameter(log_probs)
        self.losses = {name: torch.nn.Parameter(torch.tensor(value).double()) for name, value in losses.items()}

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> Any:
        return self.log_probs, {"losses": self.losses} if self.losses else {}


TARGETS = torch.tensor([[5, 6, 7], [8, 9, PAD]])
SAMPLE = {"net_input": {"tokens": torch.zeros(2, 3).long()}, "target": TARGETS, "ntokens": 5}
LOG_PROBS = -torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)


@pytest.mark.parametrize("sentence_avg", [False, True])
def test_all_that_is_returned(sentence_avg: bool) -> None:
    """By hand: the text's loss is 31 nats of 5 targets; 0.5 and 2 nats per token stand beside it."""
    loss, size, log = criterion(sentence_avg)(Model(LOG_PROBS, kl=0.5, far=2.0), SAMPLE)
    assert size == (2 if sentence_avg else 5)
    assert loss.requires_grad and float(loss.detach()) == 31 + 5 * 2.5
    assert {name: float(value) for name, value in log.items()} == {
        **{"loss": 31, "ntokens": 5, "nsentences": 2, "sample_size": size},
        **{"auxiliary_kl": 2.5, "auxiliary_far": 10},
    }
    assert not any(value.requires_grad for value in log.values() if isinstance(value, torch.Tensor))


def test_losses_of_each_token() -> None:
    for model in (Model(LOG_PROBS), Model(LOG_PROBS, kl=0.5)):
        each, size, log = criterion()(model, SAMPLE, reduce=False)
        assert each.tolist() == [1, 2, 4, 8, 16, 0] and size == 5
        assert set(log) == {"loss", "ntokens", "nsentences", "sample_size"} and float(log["loss"]) == 31


def test_a_model_that_knows_no_other_losses() -> None:
    loss, size, log = criterion()(Model(LOG_PROBS), SAMPLE)
    assert (float(loss.detach()), size) == (31, 5)
    assert set(log) == {"loss", "ntokens", "nsentences", "sample_size"}


def test_no_gradient_of_what_is_not_scored() -> None:
    model = Model(LOG_PROBS.clone(), kl=0.5)
    criterion()(model, SAMPLE)[0].backward()
    assert model.log_probs.grad is not None and model.log_probs.grad.tolist() == [[-1, -1, -1], [-1, -1, 0]]
    assert float(model.losses["kl"].grad) == 5


LOGS = [
    {"loss": 6.0, "ntokens": 3, "nsentences": 2, "sample_size": 3, "auxiliary_kl": 1.5},
    {"loss": 4.0, "ntokens": 2, "nsentences": 2, "sample_size": 2, "auxiliary_kl": 3.0, "auxiliary_far": 1.0},
    {"loss": 0.0, "sample_size": 0},  # of a rank that ran out of batches
]


def test_what_is_logged_is_divided_by_all_tokens() -> None:
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics(LOGS)
    values = found.get_smoothed_values()
    assert values["loss"] == pytest.approx(10 / 5 / math.log(2), abs=1e-3)  # in bits, as cross_entropy's
    assert values["kl"] == 4.5 / 5 and values["far"] == 1 / 5
    assert [name for name in values if name.startswith("auxiliary")] == []
    assert found["kl"].count == 5 and found["far"].count == 5  # weighed by tokens where passes are averaged
    assert list(values).index("far") < list(values).index("kl")  # in one order on every rank
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics([{"loss": 1.0, "ntokens": 7, "sample_size": 7, "auxiliary_kl": 1.0}])
    assert found.get_smoothed_values()["kl"] == 0.142857  # six digits


def test_the_criterion_must_leave_no_loss_out() -> None:
    check_criterion("memory_cross_entropy", "compressive", ["reconstruction"])
    check_criterion("cross_entropy", "lookahead", [])
    for name, losses, line in (
        ("cross_entropy", ["kl"], "--criterion cross_entropy leaves out the kl loss of --memory-type m: choose"),
        ("cross_entropy", ["kl", "far"], "--criterion cross_entropy leaves out the kl and far loss of --memory-type m"),
        ("adaptive_loss", [], "--criterion adaptive_loss leaves out a word of each cluster: choose --criterion memory"),
        ("adaptive_loss", ["kl"], "--criterion adaptive_loss leaves out a word of each cluster"),
    ):
        with pytest.raises(UsageError) as error:
            check_criterion(name, "m", losses)
        assert str(error.value).startswith(line) and str(error.value).endswith("--criterion memory_cross_entropy")


def test_accuracy_is_logged_where_it_was_counted() -> None:
    one = {"loss": 1.0, "ntokens": 9, "sample_size": 9, "n_correct": 2, "n_answers": 3}
    counted = [one, {**LOGS[1], "n_correct": 0, "n_answers": 2}, LOGS[2]]
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics(counted)
    assert found.get_smoothed_values()["accuracy"] == 40.0 and found["accuracy"].count == 5
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics([{**one, "n_correct": 1}])
    assert found.get_smoothed_values()["accuracy"] == 33.33
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics([{**one, "n_correct": 1, "n_answers": 1}])
    assert found.get_smoothed_values()["accuracy"] == 100.0, "of one answer too"
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics(LOGS)
    assert "accuracy" not in found.get_smoothed_values()
    with metrics.aggregate(new_root=True) as found:
        MemoryCrossEntropyCriterion.reduce_metrics([LOGS[2]])
    assert list(found.get_smoothed_values()) == [], "of no tokens there is nothing to log"
