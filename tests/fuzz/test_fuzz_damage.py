"""Damaged files and kills, drawn from seeds: nothing damaged is believed, nothing killed is lost.

``--fuzz-seed`` draws other places and moments; each failure names what to repeat it with.
"""

import random
import shutil
from pathlib import Path
from typing import List

import pytest
from commands import PLUGIN, Command, assert_same_training, preprocess, train
from conftest import Told
from explained import explanation, refusal

DAMAGES, KILLS = 60, 15
UPDATES = 24


def damage(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut off, zeroed, doubled or put in."""
    place = rng.randrange(len(content))
    kind = rng.choice(["flip", "cut", "zero", "insert", "swap", "empty" if rng.random() < 0.1 else "flip"])
    if kind == "flip":
        return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    if kind == "zero":
        length = min(rng.randint(1, 512), len(content) - place)
        return content[:place] + bytes(length) + content[place + length :]
    if kind == "insert":
        return content[:place] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 64))) + content[place:]
    if kind == "swap":
        half = len(content) // 2
        return content[half:] + content[:half]
    return b""


@pytest.mark.slow  # 60 damaged checkpoints through three commands take a minute
def test_no_damaged_checkpoint_is_believed(tmp_path: Path, request: pytest.FixtureRequest, told: Told) -> None:
    seed = request.config.getoption("--fuzz-seed")
    data = preprocess(tmp_path / "data", 1200)
    train(data, tmp_path / "run", "--max-update", 4, "--no-epoch-checkpoints")[0].succeed()
    whole = (tmp_path / "run" / "checkpoint_last.pt").read_bytes()
    faults: List[str] = []
    tried = 0
    for number in range(DAMAGES):
        rng = random.Random(f"{seed}/{number}")
        content = damage(whole, rng)
        if content == whole:
            continue
        tried += 1
        folder = tmp_path / f"damaged{number}"
        folder.mkdir()
        (folder / "checkpoint_last.pt").write_bytes(content)
        if rng.random() < 0.5:
            command = train(data, folder, "--max-update", 8, "--no-epoch-checkpoints")[0]
        else:
            flags = [
                data,
                "--user-dir",
                PLUGIN,
                "--task",
                "memory_language_modeling",
                "--tokens-per-sample",
                8,
                "--cpu",
            ]
            flags += ["--path", folder / "checkpoint_last.pt", "--gen-subset", "valid"]
            command = Command("eval_lm", flags, folder / "log")
        code = command.wait(60)
        output = command.own_text()
        if code == 0 or not refusal(output) or ("Traceback" in output and explanation(output) is None):
            faults.append(f"damage {number} (--fuzz-seed {seed}), status {code}:\n{output[-1500:]}")
        elif (folder / "checkpoint_last.pt").read_bytes() != content:
            faults.append(f"damage {number} (--fuzz-seed {seed}): the file was written over")
        shutil.rmtree(folder)
    told(f"fuzz: {tried} damaged checkpoints with --fuzz-seed {seed}, {len(faults)} faults")
    assert not faults, "\n\n".join(faults)


@pytest.mark.slow  # 15 killed and resumed trainings take a minute
def test_no_kill_is_noticed(tmp_path: Path, request: pytest.FixtureRequest, told: Told) -> None:
    """Killed at drawn moments, also while it saves, and resumed as often: the same weights, bit for bit."""
    seed = request.config.getoption("--fuzz-seed")
    data = preprocess(tmp_path / "data", 1200)
    flags = [
        "--max-update",
        UPDATES,
        "--save-interval-updates",
        3,
        "--keep-interval-updates",
        2,
        "--no-epoch-checkpoints",
    ]
    train(data, tmp_path / "whole", *flags)[0].succeed()
    kills = 0
    for number in range(KILLS):
        rng = random.Random(f"{seed}/{number}")
        save_dir = tmp_path / f"killed{number}"
        for _ in range(rng.randint(1, 3)):
            command = train(data, save_dir, *flags)[0]
            at = rng.randint(1, UPDATES)
            if command.wait_for(f'"num_updates": "{at}"'):
                command.process.join(rng.random() * 0.02)  # into what comes after the line: a save, a validation
            command.kill()
            kills += 1
        train(data, save_dir, *flags)[0].succeed()
        try:
            assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", save_dir / "checkpoint_last.pt")
        except AssertionError as error:
            raise AssertionError(f"run {number} (--fuzz-seed {seed}): {error}") from error
        shutil.rmtree(save_dir)
    told(f"fuzz: {kills} kills in {KILLS} runs with --fuzz-seed {seed}, all resumed to the same bits")
