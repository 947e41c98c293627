"""Several processes are one run: they read what one would read, start alike or not at all, and end together."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from commands import ROOT, assert_same_training, load, losses, preprocess, train

STILL = ["--dropout", 0, "--attention-dropout", 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("ranks"), 500)


@pytest.mark.parametrize("flags", [[], ["--varlen", "--random-offset", "--update-freq", 3]], ids=["plain", "varlen"])
def test_two_ranks_train_as_one(data, tmp_path, flags):
    flags = [*STILL, *flags, "--max-update", 20]
    one = train(data, tmp_path / "one", *flags)[0].succeed()
    two = [c.succeed() for c in train(data, tmp_path / "two", *flags, "--batch-size", 2, ranks=2)]
    assert "training on 2 devices" in two[0]
    assert losses(one).keys() == losses(two[0]).keys()
    for update, loss in losses(one).items():
        assert losses(two[0])[update] == pytest.approx(loss, abs=2e-3)  # printed with three digits
    weights = [load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("one", "two")]
    for name, tensor in weights[0].items():
        # Adam divides by the root of a gradient's square, so that rounding of a gradient near 0 moves a weight by
        # much of a step; 20 steps of 0.01 would be 0.2 if they had nothing to do with each other.
        torch.testing.assert_close(weights[1][name], tensor, atol=5e-3, rtol=1e-3)


def test_less_text_than_rows(tmp_path):
    """Rows without text are padded, and every rank has as many batches."""
    data = preprocess(tmp_path / "data", 14, 14)
    commands = train(data, tmp_path / "run", "--max-update", 3, "--batch-size", 9, ranks=2, disable_validation=False)
    for command in commands:
        assert "nan" not in command.succeed()


def test_two_ranks_run_out_of_memory_here_and_there(data, tmp_path):
    """Rank 1 in the middle, rank 0 in the very first step; both go on in step, and their memory is saved."""
    flags = ["--criterion", "failing_cross_entropy", "--max-update", 7]
    commands = train(data, tmp_path / "run", *flags, ranks=2, FAULTS="1:4,0:0")
    outputs = [command.succeed() for command in commands]
    assert sorted(losses(outputs[0])) == [1, 2, 3, 4, 5, 6, 7]
    assert "rank 0 ran out of memory" in outputs[0] and "rank 1 ran out of memory" in outputs[1]
    position = load(tmp_path / "run" / "checkpoint_last.pt")["extra_state"]["train_iterator"]
    assert position["iterations_in_epoch"] == position["streams"]["memory"]["following"] == 7


def test_one_rank_runs_out_of_memory(data, tmp_path):
    """Fairseq drops the update; the next one continues the memory from before."""
    flags = ["--criterion", "failing_cross_entropy", "--max-update", 6, "--update-freq", 2]
    output = train(data, tmp_path / "run", *flags, FAULTS="0:5")[0].succeed()
    assert sorted(losses(output)) == [1, 2, 3, 4, 5, 6]
    # Micro-batches 4 and 5 are one update; the failing one had been read, but nothing of it was kept.
    assert re.findall(r"segment (\d+) continues the memory from before (\d+) dropped", output) == [("6", "2")]


def error_lines(commands):
    """What failing ranks print last."""
    outputs = [command.fail() for command in commands]
    for output in outputs:
        assert "Traceback" not in output and "num_updates" not in output.split("| INFO")[-1]
    return [line for output in outputs for line in output.splitlines() if re.match(r"(\[rank\d\]: )?error: ", line)]


DIFFERENT = {
    "flag": ([[], ["--mem-len", 20]], "rank 1 was started with another flag model.mem_len than rank 0 (20, not 12)"),
    "update-freq": ([[], ["--update-freq", 2]], "another flag optimization.update_freq"),
}


@pytest.mark.parametrize("what", sorted(DIFFERENT))
def test_ranks_with_other_flags(data, tmp_path, what):
    rank_flags, words = DIFFERENT[what]
    lines = error_lines(train(data, tmp_path / "run", "--max-update", 2, ranks=2, rank_flags=rank_flags))
    assert len(lines) == 2 and all(words in line for line in lines)


def test_ranks_with_other_data(data, tmp_path):
    other = preprocess(tmp_path / "other", 500, skip=900)
    same_dictionary = tmp_path / "mixed"
    shutil.copytree(data, same_dictionary)
    train_bin = (same_dictionary / "train.bin").read_bytes()
    (same_dictionary / "train.bin").write_bytes(train_bin[:400] + train_bin[404:408] + train_bin[404:])
    for directory, words in ((other, "dictionary"), (same_dictionary, "text (train)")):
        commands = [
            *train_as(0, data, tmp_path / directory.name / "0", directory.name),
            *train_as(1, directory, tmp_path / directory.name / "1", directory.name),
        ]
        lines = error_lines(commands)
        assert len(lines) == 2 and all(f"another {words} than rank 0" in line for line in lines)


PORTS = {}


def train_as(rank, data, save_dir, meeting):
    """One of two ranks, with data of its own."""
    from commands import free_port

    port = PORTS.setdefault(meeting, free_port())
    return train(
        *(data, save_dir, "--max-update", 2, "--distributed-world-size", 2, "--distributed-rank", rank),
        *("--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-no-spawn"),
        *("--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
    )


def test_ranks_of_which_fairseq_knows_nothing(data, tmp_path):
    line = error_lines(train(data, tmp_path / "run", "--max-update", 2, WORLD_SIZE="2", RANK="0"))[0]
    assert "each would train alone into the same --save-dir: add --distributed-world-size 2" in line


def test_memory_that_does_not_fit(data, tmp_path):
    line = error_lines(train(data, tmp_path / "run", "--max-update", 2, "--mem-len", 10**9))[0]
    assert "--mem-len 1000000000 with 4 streams per rank (--batch-size) holds" in line and "lower one" in line


def test_killed_rank_ends_the_run_and_the_restart_is_exact(data, tmp_path):
    flags = ["--max-update", 40, "--save-interval-updates", 4, "--keep-interval-updates", 1]
    for command in train(data, tmp_path / "whole", *flags, ranks=2):
        command.succeed()
    small = (
        "--task memory_language_modeling --arch lamemo_lm --decoder-layers 2 --decoder-embed-dim 16 "
        "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --mem-len 12 --dropout 0.1 --attention-dropout 0.1 "
        "--tokens-per-sample 8 --batch-size 4 --optimizer adam --lr 0.01 --clip-norm 0.25 --log-format json "
        "--log-interval 1 --num-workers 0 --disable-validation"
    ).split()
    save_dir = tmp_path / "killed"
    words = ["bash", ROOT / "scripts" / "launch.sh", "-n", 2, "--", data, *small, "--save-dir", save_dir, *flags]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with open(tmp_path / "launch.log", "w+") as log:
        launcher = subprocess.Popen([str(w) for w in words], stdout=log, stderr=log, env=environment)
        try:
            while not (save_dir / "checkpoint_last.pt").exists():
                assert launcher.poll() is None, (tmp_path / "launch.log").read_text()[-3000:]
                time.sleep(0.01)
            text = (tmp_path / "launch.log").read_text()
            pids = {int(rank): int(pid) for rank, pid in re.findall(r"launch: rank (\d) is process (\d+)", text)}
            os.kill(pids[1], signal.SIGKILL)
            assert launcher.wait(timeout=60) == 1
        finally:
            launcher.kill()
    text = (tmp_path / "launch.log").read_text()
    # Rank 0 may have noticed first, and have ended with an error of its own.
    dead, bereft = r"rank 1 \(process \d+\) was killed by signal 9", r"rank 0 \(process \d+\) ended with status 1"
    assert re.search(f"launch: ({dead}|{bereft}); stopping the others", text)
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for command in train(data, save_dir, *flags, ranks=2):
        command.succeed()
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", save_dir / "checkpoint_last.pt")
