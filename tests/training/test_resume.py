"""A run that is killed and started again is the run that it would have been."""

import random
import re
import time
from pathlib import Path

import pytest
import torch
from commands import PLUGIN, Command, assert_same_training, load, losses, preprocess, train

from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.training.resume import describe, same_place

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
    print(f"killed {moment:.3f} s after the first update")  # shown where the test fails
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
    kill_and_go_on(
        data, tmp_path / "run", ranks, update_freq, random.Random(f"{ranks} {update_freq}").uniform(0, 0.4 * seconds)
    )
    assert_same_training(expected, tmp_path / "run" / "checkpoint_last.pt")


# 20 kill points each, every one two runs of some seconds.
@pytest.mark.slow
@pytest.mark.parametrize("point", range(20))
@pytest.mark.parametrize("ranks, update_freq", [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_killed_anywhere(data, uninterrupted, tmp_path, ranks, update_freq, point):
    expected, seconds = uninterrupted(ranks, update_freq)
    kill_and_go_on(
        data,
        tmp_path / "run",
        ranks,
        update_freq,
        random.Random(f"{ranks} {update_freq} {point}").uniform(0, 0.9 * seconds),
    )
    assert_same_training(expected, tmp_path / "run" / "checkpoint_last.pt")


def test_finished_run_makes_no_further_update(data, uninterrupted):
    """Killed after its last save, a run has nothing left to do; fairseq would make one more update."""
    path, _ = uninterrupted(1, 3)
    before = path.read_bytes()
    output = train(data, path.parent, *FLAGS, "--update-freq", 3)[0].succeed()
    assert f"all of --max-update {UPDATES} are made" in output and path.read_bytes() == before
    output = train(data, path.parent, *FLAGS, "--update-freq", 3, "--max-update", UPDATES + 1)[0].succeed()
    assert sorted(losses(output)) == [UPDATES + 1]
    path.write_bytes(before)


KINDS = {
    "lookahead": [],
    "recurrence": ["--memory-type", "recurrence"],
    "none": ["--memory-type", "none"],
    "compressive": ["--memory-type", "compressive", "--criterion", "memory_cross_entropy"],
    "continuous": ["--memory-type", "continuous", "--criterion", "memory_cross_entropy"],
}


def stop_and_go_on(data, folder, stop, end, *flags):
    """The output of a run that stops after update ``stop`` and goes on to ``end``, and what it should be equal to."""
    train(data, folder / "whole", *flags, "--max-update", end)[0].succeed()
    train(data, folder / "halves", *flags, "--max-update", stop)[0].succeed()
    output = train(data, folder / "halves", *flags, "--max-update", end)[0].succeed()
    return output, folder / "whole" / "checkpoint_last.pt", folder / "halves" / "checkpoint_last.pt"


# The two kinds whose state holds most; for the others, three runs each, there is --all.
SHORT = ("lookahead", "compressive")


@pytest.mark.parametrize(
    "kind", [kind if kind in SHORT else pytest.param(kind, marks=pytest.mark.slow) for kind in sorted(KINDS)]
)
def test_every_kind_of_memory_is_saved(data, tmp_path, kind):
    output, whole, halves = stop_and_go_on(data, tmp_path, 12, 20, *KINDS[kind])
    assert_same_training(whole, halves)
    assert "replaying" not in output


def test_a_memory_saved_before_a_flag_existed_is_continued(data, tmp_path):
    """It was made with what is the flag's default now; with another value it is not continued."""
    train(data, tmp_path / "run", "--max-update", 4)[0].succeed()
    path = tmp_path / "run" / "checkpoint_last.pt"
    saved = load(path)
    made_with = saved["extra_state"]["train_iterator"]["streams"]["memory"]["made_with"]
    del made_with["detach_memory"]
    torch.save(saved, path)
    output = train(data, tmp_path / "run", "--max-update", 6, "--detach-memory", "--no-save")[0].succeed()
    assert "--detach-memory True (was False)" in output
    assert "with the memory as it was saved" in train(data, tmp_path / "run", "--max-update", 6)[0].succeed()


@pytest.mark.parametrize(
    "flags",
    [
        ["--num-workers", 2, "--data-buffer-size", 4],  # batches that were prepared ahead are prepared again
        ["--varlen", "--random-offset", "--update-freq", 2],
    ],
    ids=["workers", "varlen"],
)
def test_position(data, tmp_path, flags):
    _, whole, halves = stop_and_go_on(data, tmp_path, 12, 24, *flags)
    assert_same_training(whole, halves)


def test_edge_of_an_epoch_with_validation(data, tmp_path):
    """Validation has a memory of its own, and a finished epoch none."""
    segments = int(re.findall(r"grouped total_num_itrs = (\d+)", train(
        data, tmp_path / "count", "--max-update", 1
    )[0].succeed())[0])  # fmt: skip
    flags = ["--validate-interval-updates", 5, "--max-update", segments + 6]
    train(data, tmp_path / "whole", *flags)[0].succeed()  # the other one validates, this one does not
    train(data, tmp_path / "halves", *flags, "--max-epoch", 1, disable_validation=False)[0].succeed()
    assert (
        load(tmp_path / "halves" / "checkpoint_last.pt")["extra_state"]["train_iterator"]["streams"]["memory"] is None
    )
    train(data, tmp_path / "halves", *flags, disable_validation=False)[0].succeed()
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", tmp_path / "halves" / "checkpoint_last.pt")


def test_without_saved_memory_it_is_refilled_and_said_so(data, tmp_path):
    output, whole, halves = stop_and_go_on(data, tmp_path, 12, 20, "--no-save-memory")
    assert "holds no memory (--no-save-memory). Memory is refilled by replaying 2 segments" in output
    assert load(halves)["extra_state"]["train_iterator"]["streams"]["memory"] is None
    train(data, tmp_path / "with", "--max-update", 20)[0].succeed()
    both = [load(path) for path in (whole, tmp_path / "with" / "checkpoint_last.pt")]
    memory = both[1]["extra_state"]["train_iterator"]["streams"]["memory"]
    # 4 streams of 12 rows: embeddings of 16; in one of two layers 2 heads of 8 with a log-sum-exp each; 4 bytes.
    assert sum(t.numel() * t.element_size() for t in memory["tensors"].values()) == 4 * 12 * (16 + 2 * (8 + 1)) * 4
    sizes = [Path(path).stat().st_size for path in (whole, tmp_path / "with" / "checkpoint_last.pt")]
    assert 0 < sizes[1] - sizes[0] < 4 * 12 * (16 + 2 * (8 + 1)) * 4 + 4096, "the memory, and some names"


CHANGES = {
    "batch size": (["--batch-size", 3], "3 streams over all ranks (was 4)", 1),
    "segment length": (["--tokens-per-sample", 5], "other segments", 1),
    "memory length": (["--mem-len", 20], "--mem-len 20 (was 12)", 1),
    "ranks": ([], "8 streams over all ranks (was 4)", 2),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_another_layout_says_so_and_stays_in_place(data, tmp_path, change):
    flags, words, ranks = CHANGES[change]
    first = train(data, tmp_path / "run", "--max-update", 10)[0].succeed()
    commands = train(data, tmp_path / "run", *flags, "--max-update", 13, ranks=ranks)
    output = [command.succeed() for command in commands][0]
    segments = [int(re.findall(r"grouped total_num_itrs = (\d+)", text)[0]) for text in (first, output)]
    line = re.findall(r"resume: epoch 1, segment (\d+) of (\d+) \(was 10\): ([^\n]*)", output)
    assert len(line) == 1 and words in line[0][2] and "replaying" in line[0][2]
    assert abs(int(line[0][0]) / segments[1] - 10 / segments[0]) <= 1 / segments[1], "within one segment"
    assert sorted(losses(output)) == [11, 12, 13]


def test_same_place_is_within_a_segment():
    for rows, tokens, new_rows, new_tokens in ((4, 8, 3, 8), (4, 8, 4, 5), (6, 10, 64, 7), (1, 100, 5, 3)):
        old, new = Layout.even(5000, rows, tokens), Layout.even(5000, new_rows, new_tokens)
        for segment in range(0, old.segments, 7):
            saved = {**describe(old, 1), "read": old.boundaries[segment]}
            place = new.boundaries[same_place(saved, new)] * new_rows
            assert -new_rows <= old.boundaries[segment] * rows - place <= (new_tokens + 1) * new_rows


def test_same_streams_on_other_ranks_keep_their_memory(data, tmp_path):
    """2 ranks of 2 streams go on as 1 rank of 4: the memory is cut differently, and nothing is lost."""
    for command in train(data, tmp_path / "run", "--dropout", 0, "--attention-dropout", 0, "--batch-size", 2,
                         "--max-update", 10, ranks=2):  # fmt: skip
        command.succeed()
    flags = ["--dropout", 0, "--attention-dropout", 0, "--max-update", 20]
    output = train(data, tmp_path / "run", *flags)[0].succeed()
    assert "the same streams, on 1 ranks (was 2)" in output and "replaying" not in output
    whole = losses(train(data, tmp_path / "whole", *flags)[0].succeed())
    for update, loss in losses(output).items():
        assert loss == pytest.approx(whole[update], abs=2e-3)


def test_other_flags_of_fairseq(data, tmp_path):
    """What any model can do: start the data anew, fine-tune, average, keep some checkpoints, a shadow model."""
    train(data, tmp_path / "run", "--max-epoch", 3, "--keep-last-epochs", 2, "--store-ema")[0].succeed()
    names = sorted(path.name for path in (tmp_path / "run").glob("[!.]*"))
    assert names == ["checkpoint2.pt", "checkpoint3.pt", "checkpoint_last.pt"]
    last = load(tmp_path / "run" / "checkpoint_last.pt")
    assert last["extra_state"]["ema"].keys() == last["model"].keys()
    updates = last["optimizer_history"][-1]["num_updates"]

    source = tmp_path / "run" / "checkpoint3.pt"
    anew = train(data, tmp_path / "anew", "--restore-file", source, "--reset-dataloader", "--max-update", updates + 2)
    output = anew[0].succeed()
    assert "resume:" not in output and sorted(losses(output)) == [updates + 1, updates + 2]

    # As fairseq's scripts/average_checkpoints.py, which no wheel brings along.
    two = [load(tmp_path / "run" / f"checkpoint{epoch}.pt") for epoch in (2, 3)]
    two[0]["model"] = {name: (two[0]["model"][name] + two[1]["model"][name]) / 2 for name in two[0]["model"]}
    torch.save(two[0], tmp_path / "average.pt")
    output = train(data, tmp_path / "tuned", "--finetune-from-model", tmp_path / "average.pt", "--max-update", 3)[
        0
    ].succeed()
    assert "resume:" not in output
    tuned = losses(output)
    assert sorted(tuned) == [1, 2, 3] and tuned[1] < losses(Path(tmp_path / "run.log").read_text())[1] - 1


def test_patience_and_learning_rate_stop_a_run(data, tmp_path):
    flags = ["--validate-interval", 1, "--lr", 1e-9, "--patience", 1, "--max-epoch", 9]
    argv = train(data, tmp_path / "run", *flags, disable_validation=False)
    assert "early stop since valid performance" in argv[0].succeed()
    flags = ["--lr-scheduler", "inverse_sqrt", "--warmup-updates", 1, "--stop-min-lr", 0.004, "--max-epoch", 9]
    assert "stopping training because current learning rate" in train(data, tmp_path / "lr", *flags)[0].succeed()


def test_inference_leaves_the_training_memory_alone(data, tmp_path):
    train(data, tmp_path / "run", "--max-update", 10)[0].succeed()
    path = tmp_path / "run" / "checkpoint_last.pt"
    state = load(path)
    for tensor in state["extra_state"]["train_iterator"]["streams"]["memory"]["tensors"].values():
        tensor.fill_(float("nan"))
    torch.save(state, tmp_path / "poisoned.pt")
    scores = []
    for checkpoint in (path, tmp_path / "poisoned.pt"):
        output = Command(
            "eval_lm",
            [
                *(data, "--path", checkpoint, "--gen-subset", "valid", "--batch-size", 2, "--cpu"),
                *("--user-dir", PLUGIN, "--task", "memory_language_modeling", "--tokens-per-sample", 8),
            ],
            tmp_path / f"{checkpoint.stem}.eval.log",
        ).succeed()
        scores += re.findall(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", output)
    assert len(scores) == 2 and scores[0] == scores[1]
