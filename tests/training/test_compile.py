"""``fairseq-train --compile``, as processes: one rank and two, resumed, with what users combine it with."""

import pytest
from commands import assert_same_training, load, losses, preprocess, train

from lamemo_fairseq.core.compiled import cpp_compiler

needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="--compile needs a C++ compiler")
FLAGS = ["--compile", "--mem-len", 8, "--decoder-layers", 2]
PATIENCE = 900  # machine code is made while an update waits


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("compile"), 500)


@needs_compiler
@pytest.mark.slow  # makes machine code for two graphs, a minute or more
def test_a_run_that_stops_goes_on_as_if_it_had_not(data, tmp_path):
    """Dropout included, and the short segment at the end of each epoch."""
    one = train(data, tmp_path / "one", *FLAGS, "--max-update", 40)[0].succeed(PATIENCE)
    assert len(losses(one)) == 40 and '"epoch": 3' in one
    train(data, tmp_path / "two", *FLAGS, "--max-update", 21)[0].succeed(PATIENCE)
    train(data, tmp_path / "two", *FLAGS, "--max-update", 40)[0].succeed(PATIENCE)
    assert_same_training(*(tmp_path / name / "checkpoint_last.pt" for name in ("one", "two")))
    assert load(tmp_path / "one" / "checkpoint_last.pt")["cfg"]["model"]["compile"] is True


@needs_compiler
@pytest.mark.slow  # as above
def test_two_ranks_train_as_one_that_does_not_compile(data, tmp_path):
    still = ["--dropout", 0, "--attention-dropout", 0, "--max-update", 8]
    one = train(data, tmp_path / "one", *FLAGS[1:], *still)[0].succeed()
    flags = [*FLAGS, *still, "--batch-size", 2, "--checkpoint-activations"]
    two = [c.succeed(PATIENCE) for c in train(data, tmp_path / "two", *flags, ranks=2)]
    assert "training on 2 devices" in two[0]
    assert losses(one).keys() == losses(two[0]).keys()
    for update, loss in losses(one).items():
        assert losses(two[0])[update] == pytest.approx(loss, abs=2e-3)  # printed with three digits


def test_segments_of_many_lengths_are_refused(data, tmp_path):
    said = train(data, tmp_path / "run", *FLAGS, "--varlen", "--max-update", 2)[0].fail()
    assert "error: --compile makes code for segments of one length, and --varlen draws others" in said
    assert "Traceback" not in said


def test_without_a_compiler_it_is_one_line(data, tmp_path):
    said = train(data, tmp_path / "run", *FLAGS, "--max-update", 2, CXX="nonesuch")[0].fail()
    assert "error: --compile needs a C++ compiler, and none is found" in said and "Traceback" not in said
