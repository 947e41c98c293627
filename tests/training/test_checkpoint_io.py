"""Checkpoints are written whole or not at all, and damaged ones are refused before anything is overwritten."""

import os
import random
import resource
import signal
from pathlib import Path

import pytest
import torch
from commands import PLUGIN, Command, assert_same_training, load, preprocess, train

from lamemo_fairseq.cli.main import main as lamemo
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.interop import authors
from lamemo_fairseq.plugin.model import LaMemoLanguageModel
from lamemo_fairseq.training import checkpoint_io as files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("files"), 500)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A directory with three checkpoints, the last of which is the newest."""
    save_dir = tmp_path_factory.mktemp("run") / "run"
    train(data, save_dir, "--max-update", 8, "--save-interval-updates", 4)[0].succeed()
    return save_dir


def damaged(source: Path, folder: Path, content: bytes) -> Path:
    """``folder`` with an older good checkpoint, the newest good one, and one that holds ``content``."""
    folder.mkdir(exist_ok=True)
    for age, name in ((30, "checkpoint_1_4.pt"), (20, "checkpoint_1_8.pt")):
        if not (folder / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
            moment = (folder / name).stat().st_mtime - age
            os.utime(folder / name, (moment, moment))
    (folder / "checkpoint_last.pt").write_bytes(content)
    return folder / "checkpoint_last.pt"


def drawn_from(seed: str) -> random.Random:
    """A random generator whose seed is shown where the test fails."""
    print(f"seed {seed!r}")
    return random.Random(seed)


def equal(one, other) -> bool:
    """Whether two checkpoints hold the same."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and (one == other or one != one)


def test_cut_short_anywhere(run, tmp_path):
    whole, draw = (run / "checkpoint_last.pt").read_bytes(), drawn_from("cut short")
    for length in [0, 1, len(whole) - 1, *draw.sample(range(len(whole)), 50)]:
        print(f"cut to {length} of {len(whole)} bytes")
        path = damaged(run, tmp_path / "cut", whole[:length])
        with pytest.raises(UsageError) as error:
            files.check(str(path))
        newest = tmp_path / "cut" / "checkpoint_1_8.pt"
        assert str(error.value).startswith(f"{path} is truncated or damaged")
        assert f"the newest undamaged one is {newest}: name another with --restore-file" in str(error.value)


def test_flipped_anywhere(run, tmp_path):
    """What passes the check is loaded as it was written: some bytes of the format mean nothing."""
    whole, draw = (run / "checkpoint_last.pt").read_bytes(), drawn_from("flipped")
    content, refused = load(run / "checkpoint_last.pt"), 0
    for place in draw.sample(range(len(whole)), 150):
        flipped, bits = bytearray(whole), draw.randrange(1, 256)
        print(f"byte {place} of {len(whole)} with the bits {bits:08b} flipped")
        flipped[place] ^= bits
        path = damaged(run, tmp_path / "flipped", bytes(flipped))
        if files.is_whole(str(path)):
            assert equal(load(path), content), place
        else:
            refused += 1
    assert refused > 140, "only the checksum itself may be flipped unnoticed"


def test_damaged_checkpoint_stops_the_run_before_it_overwrites_anything(data, run, tmp_path):
    whole = bytearray((run / "checkpoint_last.pt").read_bytes())
    whole[len(whole) // 2] ^= 255
    path = damaged(run, tmp_path / "save", bytes(whole))
    before = {p.name: p.read_bytes() for p in path.parent.glob("[!.]*")}
    output = train(data, path.parent, "--max-update", 12)[0].fail()
    assert output.splitlines()[-1].startswith(f"error: {path} is truncated or damaged")
    assert "Traceback" not in output
    assert {p.name: p.read_bytes() for p in path.parent.glob("[!.]*")} == before
    newest = path.parent / "checkpoint_1_8.pt"
    train(data, path.parent, "--restore-file", newest, "--max-update", 12)[0].succeed()
    train(data, tmp_path / "whole", "--max-update", 12)[0].succeed()
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", path)


def test_full_disk_loses_nothing(data, tmp_path):
    """The system refuses to write on, in the middle of a file: as with a full disk, but for this process alone."""
    flags = ["--save-interval-updates", 4]
    train(data, tmp_path / "run", *flags, "--max-update", 8)[0].succeed()
    last = tmp_path / "run" / "checkpoint_last.pt"
    before = {p.name: p.read_bytes() for p in last.parent.glob("[!.]*")}
    limit = str(last.stat().st_size // 2)
    output = train(data, last.parent, *flags, "--max-update", 12, TEST_FILE_SIZE_LIMIT=limit)[0].fail()
    line = output.splitlines()[-1]
    assert line.startswith(f"error: {last.parent}/checkpoint_1_12.pt could not be written")
    assert "nothing that was saved before is lost" in line and f"(the newest undamaged checkpoint is {last}" in line
    assert {p.name: p.read_bytes() for p in last.parent.glob("[!.]*")} == before
    train(data, last.parent, *flags, "--max-update", 12)[0].succeed()
    train(data, tmp_path / "whole", *flags, "--max-update", 12)[0].succeed()
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", last)


def in_a_fork(work) -> int:
    """The exit status of ``work`` in another process, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_copy_on_a_full_disk(tmp_path):
    """Where fairseq would copy one checkpoint over another, and leave half of it."""
    source, path = tmp_path / "new.pt", tmp_path / "old.pt"
    source.write_bytes(b"new" * 10000)
    path.write_bytes(b"old")

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(UsageError, match="old.pt could not be written .*nothing that was saved before is lost"):
            files.copy(str(source), str(path))

    assert in_a_fork(work) == 0
    assert path.read_bytes() == b"old" and not (tmp_path / "old.pt.tmp").exists()


def test_killed_while_writing(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")

    def work():
        with files.replacing(str(path)) as written:
            Path(written).write_bytes(b"ne")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(work) == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    files.save({"x": torch.ones(1)}, str(path))
    assert load(path)["x"] == 1 and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_save_dir_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    output = train(data, tmp_path / "file" / "run", "--max-update", 2, output=tmp_path / "log")[0].fail()
    line = output.splitlines()[-1]
    assert (
        line.startswith(f"error: --save-dir {tmp_path}/file/run cannot be written to (") and "Traceback" not in output
    )


def no_file(kind, path):
    """Something that is no file."""
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere.pt")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")


KINDS = {
    "directory": "a directory",
    "dangling link": "a link to nowhere.pt",
    "pipe": "a pipe",
    "device": "a pipe, socket",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_no_file(data, tmp_path, kind):
    """Found before training begins, and before anything waits for a pipe's other end."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "checkpoint_last.pt"
    no_file(kind, path)
    words = [data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--path", path, "--cpu"]
    commands = [
        Command(name, [*words, "--batch-size", 2], tmp_path / name) for name in ("eval_lm", "generate", "validate")
    ]
    commands += train(data, tmp_path / "run", "--max-update", 2)
    for flag in ("--restore-file", "--finetune-from-model"):
        commands += train(data, tmp_path / f"other{flag}", flag, path, "--max-update", 2)
    for output in (command.fail(20) for command in commands):
        assert output.splitlines()[-1].startswith(f"error: {path} is {KINDS[kind]}") and "Traceback" not in output
        assert "num_updates" not in output


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("command", ["score", "generate", "export", "evaluate", "import"])
def test_no_command_of_ours_waits_for_it(data, tmp_path, capsys, kind, command):
    no_file(kind, tmp_path / "model.pt")
    path, out = str(tmp_path / "model.pt"), str(tmp_path / "out")
    words = {
        "score": [path, str(data.parent / "valid.txt"), "--data", str(data)],
        "generate": [path, "--prompt", "a", "--data", str(data)],
        "export": [path, out, "--data", str(data)],
        "evaluate": [str(data), "--path", path, "--results-path", out, "--cpu"],
        "import": ["--checkpoint", path, "--save-dir", out],
    }[command]
    assert lamemo([command, *words]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"lamemo {command}: ") and path in line and not os.path.exists(out)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_no_file_is_no_checkpoint_to_import_or_to_load_either(data, tmp_path, kind):
    no_file(kind, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"model\.pt is no file: name one that the authors' program wrote"):
        authors.read(str(tmp_path / "model.pt"))
    with pytest.raises(UsageError, match=r"model\.pt does not exist: name another checkpoint_file"):
        LaMemoLanguageModel.from_pretrained(str(tmp_path), "model.pt", str(data))
