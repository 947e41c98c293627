"""One training at a time writes into a directory."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from commands import preprocess, train
from test_saved_run import refused

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.training.run_lock import LOCK, OWNER, lock_save_dir


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("locked"), 500)


def test_two_trainings_in_one_directory(data, tmp_path):
    """The second is refused, with the first's process and host, also where it has ranks; once that is killed, not."""
    folder = tmp_path / "run"
    first = train(data, folder, "--max-update", 100000, "--max-epoch", 100000)[0]
    while not (folder / OWNER).exists() and first.process.is_alive():
        time.sleep(0.05)
    time.sleep(0.2)
    owner = json.loads((folder / OWNER).read_text())
    second = train(data, folder, "--max-update", 4, output=tmp_path / "second.log")
    ranks = train(data, folder, "--max-update", 4, ranks=2, output=tmp_path / "ranks.log")
    for command in (*second, *ranks):
        line = refused(command.fail())
        assert f"--save-dir {folder} is written to by another training" in line
        assert f"process {owner['pid']} on {socket.gethostname()}" in line
    train(data, folder, "--max-update", 2, "--no-save", output=tmp_path / "third.log")[0].succeed()
    os.kill(owner["pid"], signal.SIGKILL)
    first.process.join()
    train(data, folder, "--max-update", 2, "--restore-file", "checkpoint_last.pt", output=tmp_path / "log")[0].succeed()


def test_a_process_may_train_twice(tmp_path):
    one, other = lock_save_dir(str(tmp_path)), lock_save_dir(str(tmp_path))
    assert one is other is not None
    one.release(force=True)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a place without locks")
def test_no_lock_to_be_had_is_a_warning(tmp_path, caplog):
    (tmp_path / LOCK).mkdir()
    try:
        assert lock_save_dir(str(tmp_path)) is None
    except UsageError:
        pytest.fail("a place that knows no locks is no other training")
    assert "a second training into it would not be noticed" in caplog.text
