"""A run that is killed and started again is the run that it would have been."""

import random
import time

import pytest
from commands import assert_same_training, preprocess, train

UPDATES = 44  # with 17 segments per epoch and every --update-freq here, the run ends within its third epoch or later
FLAGS = ["--max-update", UPDATES, "--save-interval-updates", 3, "--keep-interval-updates", 2, "--random-offset"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("resume"), 500)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """Last checkpoints of runs that nobody disturbed, and how long they took, by number of ranks and update-freq."""
    made = {}

    def run(ranks, update_freq):
        if (ranks, update_freq) not in made:
            save_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
            begin = time.monotonic()
            for command in train(data, save_dir, *FLAGS, "--update-freq", update_freq, ranks=ranks):
                command.succeed()
            made[ranks, update_freq] = save_dir / "checkpoint_last.pt", time.monotonic() - begin
        return made[ranks, update_freq]

    return run


def kill_and_go_on(data, save_dir, ranks, update_freq, moment):
    """Kills a run ``moment`` seconds after its first update, and starts it again."""
    flags = [*FLAGS, "--update-freq", update_freq]
    commands = train(data, save_dir, *flags, ranks=ranks)
    assert commands[0].wait_for('"num_updates": "1"')
    time.sleep(moment)
    for command in commands:
        command.kill()
    for command in train(data, save_dir, *flags, ranks=ranks):
        command.succeed()


@pytest.mark.parametrize("ranks, update_freq", [(1, 3), (2, 1)])
def test_killed_run_ends_with_the_same_weights(data, uninterrupted, tmp_path, ranks, update_freq):
    expected, seconds = uninterrupted(ranks, update_freq)
    kill_and_go_on(data, tmp_path / "run", ranks, update_freq, random.uniform(0, 0.4 * seconds))
    assert_same_training(expected, tmp_path / "run" / "checkpoint_last.pt")


# 20 kill points each, every one two runs of some seconds.
@pytest.mark.slow
@pytest.mark.parametrize("point", range(20))
@pytest.mark.parametrize("ranks, update_freq", [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_killed_anywhere(data, uninterrupted, tmp_path, ranks, update_freq, point):
    expected, seconds = uninterrupted(ranks, update_freq)
    kill_and_go_on(data, tmp_path / "run", ranks, update_freq, random.uniform(0, 0.9 * seconds))
    assert_same_training(expected, tmp_path / "run" / "checkpoint_last.pt")
