"""Every optimizer and scheduler of fairseq trains a model with memory, and goes on where it was."""

import fairseq.optim.lr_scheduler  # noqa: F401  (registers)
import pytest
from commands import assert_same_training, losses, preprocess, train
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY

SKIPPED = {
    "composite": "takes groups of parameters from a file of hydra",
    "cpu_adam": "needs deepspeed",
    "lamb": "needs apex",
    "pass_through": "hands over to the scheduler of --optimizer composite",
}
NEEDED = {
    "manual": ["--update2lr", "{'1-3': 0.01, '4': 0.02}"],
    "cosine": ["--lr-period-updates", 4],
    "polynomial_decay": ["--total-num-update", 6],
    "triangular": ["--max-lr", 0.02],
    "tri_stage": ["--phase-ratio", "(0.2,0.4,0.4)"],
    "inverse_sqrt": ["--warmup-updates", 1],
}
#: those whose flags are a namespace: their own code was at fault; the others, two runs more each, are for --all
OLD = ("sgd", "adagrad", "adadelta", "adafactor", "adamax", "manual")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("optimizers"), 500)


def members():
    """Flag and name of all that fairseq has."""
    for flag, registry in (("--optimizer", OPTIMIZER_REGISTRY), ("--lr-scheduler", LR_SCHEDULER_REGISTRY)):
        for name in sorted(registry):
            marks = [] if name in OLD else [pytest.mark.slow]
            if name in SKIPPED:
                marks = [pytest.mark.skip(reason=SKIPPED[name])]
            yield pytest.param(flag, name, marks=marks, id=f"{flag[2:]}-{name}")


@pytest.mark.parametrize("flag, name", members())
def test_three_updates_and_three_more(data, tmp_path, flag, name):
    flags = [flag, name, *NEEDED.get(name, []), "--max-update"]
    stop = ["--max-epoch", 1, "--save-interval-updates", 3]
    assert sorted(losses(train(data, tmp_path / "whole", *flags, 6, *stop)[0].succeed())) == [1, 2, 3, 4, 5, 6]
    (tmp_path / "halves").mkdir()
    # The run as it was after three updates: a schedule may depend on --max-update.
    (tmp_path / "halves" / "checkpoint_last.pt").write_bytes((tmp_path / "whole" / "checkpoint_1_3.pt").read_bytes())
    output = train(data, tmp_path / "halves", *flags, 6, *stop)[0].succeed()
    assert sorted(losses(output)) == [4, 5, 6] and "with the memory as it was saved" in output
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", tmp_path / "halves" / "checkpoint_last.pt")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_does_not_see_what_it_is_validated_on(data, tmp_path, split):
    """A memory is training's or validation's by who reads, not by the name of the split; in checkpoints too."""
    flags = ["--train-subset", split, "--random-offset", "--validate-interval-updates", 2, "--max-update"]
    train(data, tmp_path / "without", *flags, 7)[0].succeed()
    for subsets in ("train", "valid,train"):
        folder = tmp_path / subsets
        validated = [*flags[:-1], "--valid-subset", subsets, "--max-update"]
        train(data, folder, *validated, 4, disable_validation=False)[0].succeed()
        output = train(data, folder, *validated, 7, disable_validation=False)[0].succeed()
        assert "with the memory as it was saved" in output
        assert_same_training(tmp_path / "without" / "checkpoint_last.pt", folder / "checkpoint_last.pt")
