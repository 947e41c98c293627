"""Every way to watch a training: the commands of examples/logging/README.md, and what they leave."""

import csv
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections import Counter
from pathlib import Path
from typing import Dict, List

import pytest
from commands import ROOT
from conftest import TINY, run
from test_pages import blocks, reason

from lamemo_fairseq.study.curves import events

README = ROOT / "examples" / "logging" / "README.md"


def records(path: Path) -> List[Dict[str, str]]:
    """The JSON objects in a --log-file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith('{"epoch"')]


def test_a_log_file_holds_each_line_once(corpus: Path, tmp_path: Path) -> None:
    """Over several epochs, where fairseq alone repeats those of epoch n in it n times; resumed, it goes on."""
    flags = [*TINY, "--tokens-per-sample", 256, "--log-format", "json", "--log-file", tmp_path / "log"]
    for epochs in (2, 3):
        run("train", corpus, *flags, "--max-epoch", epochs, "--save-dir", tmp_path)
    found = records(tmp_path / "log")
    updates = [int(record["num_updates"]) for record in found if "num_updates" in record]
    assert len(updates) > 20 and updates == list(range(1, len(updates) + 1))
    assert [record["epoch"] for record in found if "valid_loss" in record] == [1, 2, 3]
    assert [record["epoch"] for record in found if "train_loss" in record] == [1, 2, 3]


def on_a_terminal(script: str, folder: Path, **environment: str) -> str:
    """What a script of bash writes, on standard error to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))  # no bar fits on a terminal without size
    said: List[bytes] = []

    def listen() -> None:
        try:
            while block := os.read(ours, 1 << 16):
                said.append(block)
        except OSError:  # how a terminal ends
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(["bash", "-euc", script], cwd=folder, env=given, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    listener.join()
    os.close(ours)
    output = done.stdout.decode() + b"".join(said).decode(errors="replace")
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.mark.slow  # six trainings in processes of their own, one of which starts wandb's service
def test_every_way_of_the_page(corpus: Path, tmp_path: Path) -> None:
    script = "\n".join(block for block in blocks(README) if not reason(block))
    script = script.replace("--max-update 200", "--max-update 12 --cpu --decoder-layers 2 --num-workers 0")
    script = script.replace("--log-interval 10", "--log-interval 1")
    assert "--max-update 12" in script and '--log-interval 1"' in script and "wandb sync" not in script
    (tmp_path / "lamemo_fairseq").symlink_to(ROOT / "lamemo_fairseq")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    output = on_a_terminal(script, tmp_path, DATA=str(corpus), PATH=path)
    logs = tmp_path / "runs/logging"

    assert re.search(r"epoch 001:\s+\d+%\|", output), "no bar on a terminal"
    assert "epoch 001:     10 / " in output  # simple
    assert [int(r["num_updates"]) for r in records(logs / "json.log") if "num_updates" in r] == list(range(1, 13))
    (last,) = (json.loads(line) for line in output.splitlines() if line.startswith('{"epoch"'))  # grep's
    assert float(last["train_bpc"]) > 1 and float(last["train_alpha"]) > 0
    with open(logs / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows].count("valid") == 1 and float(rows[-2]["alpha"]) > 0

    for part, steps in (("train_inner", list(range(1, 13))), ("valid", [12]), ("train", [12])):
        (file,) = (logs / "tensorboard" / part).glob("events.out.tfevents.*")
        found = list(events(file))
        names = {name for _, name, _ in found}
        assert {"loss", "ppl", "bits_per_token", "bpc", "alpha", "memory_mib"} <= names or part != "train_inner", names
        assert [step for step, name, _ in found if name == "loss"] == steps

    (offline,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    assert {"train_inner/bpc", "valid/bpc", "train/bpc", "train_inner/alpha"} <= sent(offline).keys()
    assert sent(offline)["train_inner/bpc"] >= 12


def sent(path: Path) -> Dict[str, int]:
    """How often each name stands in an offline run of wandb that would be sent: for each value, and as a summary."""
    return Counter(name.decode() for name in re.findall(rb"(?:train_inner|train|valid)/[a-z_]+", path.read_bytes()))


@pytest.mark.slow  # two trainings in a process of hydra's own
def test_logs_of_each_job_of_multirun(corpus: Path, tmp_path: Path) -> None:
    """They share a process, and not a log."""
    changes = ["model.memory_type=recurrence,none", "optimization.max_update=2", "common.log_interval=1"]
    changes += ["common.log_format=json", "common.log_file=log", "common.tensorboard_logdir=tb", "common.cpu=true"]
    changes += ["common.wandb_project=x", f"hydra.sweep.dir={tmp_path}/sweep", "--multirun"]
    words = [Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir"]
    words += [ROOT / "lamemo_fairseq/config", "--config-name", "lamemo_small", f"task.data={corpus}"]
    words += [f"common.user_dir={ROOT}/lamemo_fairseq", *changes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for number in "01":
        job = tmp_path / "sweep" / number
        assert [r["num_updates"] for r in records(job / "log") if "num_updates" in r] == ["1", "2"]
        (file,) = (job / "tb/train_inner").glob("events.out.tfevents.*")
        assert [step for step, name, _ in events(file) if name == "loss"] == [1, 2]
    runs = sorted((tmp_path / "sweep" / "0" / "wandb").glob("offline-run-*/run-*.wandb"))  # it keeps the first folder
    assert [sent(run)["train_inner/bpc"] >= 2 for run in runs] == [True, True]
