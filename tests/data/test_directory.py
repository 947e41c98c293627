"""Data whose files are cut short: found when they are loaded and where an epoch begins, not by the system's SIGBUS."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from commands import PLUGIN, Command, preprocess, train
from conftest import task_config
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, _code_to_dtype

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.directory import TOKEN_BYTES, SplitFiles, sizes_by_index
from lamemo_fairseq.plugin.task import MemoryLanguageModelingTask


@pytest.fixture()
def data(tmp_path) -> Path:
    return preprocess(tmp_path, 300)


def test_bytes_of_tokens_are_fairseqs() -> None:
    assert TOKEN_BYTES == {code: np.dtype(kind).itemsize for code, kind in _code_to_dtype.items()}


@pytest.mark.parametrize("code", TOKEN_BYTES)
@pytest.mark.parametrize("lengths", [[], [3], [2, 0, 5]])
def test_sizes_are_those_that_fairseq_writes(tmp_path, code, lengths) -> None:
    import torch

    builder = MMapIndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=_code_to_dtype[code])
    for length in lengths:
        builder.add_item(torch.ones(length, dtype=torch.int64))
    builder.finalize(str(tmp_path / "a.idx"))
    sizes = tuple(os.path.getsize(tmp_path / name) for name in ("a.idx", "a.bin"))
    # Fairseq finds the first kind of numbers that equals the one it is given: float64 and double are one.
    assert sizes_by_index(str(tmp_path / "a.idx")) == sizes


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_every_length_that_is_too_short_is_found(data, suffix) -> None:
    path = data / f"valid.{suffix}"
    SplitFiles.of(str(data / "valid"))
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=rf"valid\.{suffix} is cut short \({length} of \d+ bytes\)"):
            SplitFiles.of(str(data / "valid"))


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_commands_refuse_it_in_one_line(data, tmp_path, suffix) -> None:
    for split in ("train", "valid"):
        os.truncate(data / f"{split}.{suffix}", os.path.getsize(data / f"{split}.{suffix}") - 1)
    train(preprocess(tmp_path / "whole", 300), tmp_path / "run", "--max-update", 1)[0].succeed()
    words = [data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--cpu", "--gen-subset", "valid"]
    path = ["--path", tmp_path / "run" / "checkpoint_last.pt"]
    commands = [train(data, tmp_path / "other", "--max-update", 2)[0]]
    commands += [Command("eval_lm", [*words, *path], tmp_path / "eval.log")]
    for command in commands:
        output = command.fail()
        assert re.search(rf"^error: .*\.{suffix} is cut short", output, re.MULTILINE) and "Traceback" not in output


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_every_part_of_a_combined_split_is_looked_at(data, suffix) -> None:
    for end in ("bin", "idx"):
        (data / f"train1.{end}").write_bytes((data / f"valid.{end}").read_bytes())
    task = MemoryLanguageModelingTask.setup_task(task_config(data))
    task.load_dataset("train", combine=True)
    task.begin_epoch(1, None)
    part = data / f"train1.{suffix}"
    os.truncate(part, part.stat().st_size - 1)
    with pytest.raises(UsageError, match=rf"train1\.{suffix} has shrunk"):
        task.begin_epoch(2, None)
    with pytest.raises(UsageError, match=rf"train1\.{suffix} is cut short"):
        task.load_dataset("train", combine=True)


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_an_epoch_does_not_begin_on_what_has_shrunk(data, suffix) -> None:
    task = MemoryLanguageModelingTask.setup_task(task_config(data))
    task.load_dataset("train")
    task.load_dataset("valid")
    task.begin_epoch(1, None)
    path = data / f"valid.{suffix}"
    size = path.stat().st_size
    (data / "new").write_bytes(path.read_bytes()[:-1])
    os.rename(data / "new", path)  # whoever has the old file open still reads it
    task.begin_epoch(2, None)
    path = data / f"train.{suffix}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(UsageError, match=rf"train\.{suffix} has shrunk from {size} to {size - 1} bytes since the run"):
        task.begin_epoch(3, None)


@pytest.mark.parametrize("name", ["train.bin", "train.idx", "valid.bin", "valid.idx"])
def test_a_running_training_stops_where_an_epoch_begins(data, tmp_path, name) -> None:
    """The files are shorter than a page, so that what is cut off reads as zeros and not as SIGBUS."""
    for path in data.iterdir():
        assert path.stat().st_size < 65536
    command = train(data, tmp_path / "run", "--max-epoch", 10_000, "--no-save", disable_validation=False)[0]
    assert command.wait_for('"num_updates": "20"')
    size = (data / name).stat().st_size
    os.truncate(data / name, size - 2)
    output = command.fail()
    assert output.splitlines()[-1].startswith(f"error: {data / name} has shrunk from {size} to {size - 2} bytes since")
    assert "Traceback" not in output
