"""Mistakes of users: one line that names the flag, its value and the way out, and no traceback."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY, run, task_config
from fairseq import checkpoint_utils, tasks
from omegaconf import OmegaConf
from reference_authors import GOLDEN

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.interop.authors import import_checkpoint
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.error_reporting import explain
from lamemo_fairseq.plugin.task import MemoryLanguageModelingTask

FLAGS = [
    ({"mem_len": -1}, "--mem-len -1 .*choose 0 or more"),
    ({"decoder_layers": 0}, "--decoder-layers 0 .*choose 1 or more"),
    ({"decoder_attention_heads": 7}, "--decoder-embed-dim 512 .*--decoder-attention-heads 7.*divisor"),
    ({"decoder_embed_dim": 9, "decoder_attention_heads": 3}, "--decoder-embed-dim 9 is odd.*even"),
    ({"decoder_head_dim": 0}, "--decoder-head-dim 0 .*choose 1 or more"),
    ({"position_encoding": "absolute"}, "--position-encoding absolute .*lookahead.*choose disentangled or"),
    (
        {"memory_type": "recurrence", "position_encoding": "disentangled"},
        "--position-encoding disentangled .*recurrence.*choose transformer-xl",
    ),
    ({"memory_type": "none", "look_ahead": "full"}, "--look-ahead full .*--memory-type none.*leave it out"),
    ({"dropout": 1.5}, r"--dropout 1.5 .*choose"),
    ({"clamp_len": 0}, "--clamp-len 0 .*-1 for none"),
    ({"same_length": True, "mem_len": 0}, "--same-length .*raise --mem-len"),
]


@pytest.mark.parametrize("changes, line", FLAGS, ids=[next(iter(changes)) for changes, _ in FLAGS])
def test_flags(changes: dict, line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}") as error:
        LaMemoConfig(**changes).check()
    assert "\n" not in str(error.value)


def test_commands_print_the_line_and_no_traceback(corpus: Path, tmp_path: Path) -> None:
    done = run("train", corpus, *TINY, "--mem-len", -1, "--save-dir", tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout.strip().splitlines()[-1] == "error: --mem-len -1 is too small: choose 0 or more"
    assert "Traceback" not in done.stdout


def setup(data: Path) -> MemoryLanguageModelingTask:
    return MemoryLanguageModelingTask.setup_task(task_config(data))


def test_data_directory(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^data directory .*nowhere has no dict.txt: name the one"):
        setup(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="^no data directory"):
        MemoryLanguageModelingTask.setup_task(dataclasses.replace(task_config(corpus), data=None))
    with pytest.raises(UsageError, match="^split test7 is not in .*--testpref"):
        setup(corpus).load_dataset("test7")


def test_empty_split(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    folder = tmp_path / "data-bin"
    run("preprocess", "--only-source", "--validpref", tmp_path / "empty.txt", "--srcdict", corpus / "dict.txt",
        "--destdir", folder)  # fmt: skip
    with pytest.raises(UsageError, match="^split valid in .* is empty: preprocess some text"):
        setup(folder).load_dataset("valid")


def explained(path: Path, **overrides: object) -> str:
    """The line a user sees when fairseq loads this checkpoint."""
    with pytest.raises(BaseException) as error:  # noqa: B017, PT011
        checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    line = explain(error.value)
    assert line is not None and "\n" not in line, error.value
    return line


def test_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    for length in (0, 10, 5000, checkpoint.stat().st_size - 10):
        cut.write_bytes(checkpoint.read_bytes()[:length])
        assert explained(cut).startswith(f"{cut} is truncated or damaged")
    assert "lamemo import" in explained(GOLDEN / "lamemo.pt")
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    assert explained(text).startswith(f"{text} is truncated or damaged")


def test_overrides_that_change_shapes(checkpoint: Path) -> None:
    assert "leave widths out of --model-overrides" in explained(checkpoint, decoder_ffn_embed_dim=8)
    assert "leave these out of --model-overrides" in explained(checkpoint, decoder_layers=3)
    assert "leave these out of --model-overrides" in explained(
        checkpoint, memory_type="recurrence", position_encoding=None
    )


def test_importer(tmp_path: Path) -> None:
    def refused(theirs: object, line: str) -> None:
        path = tmp_path / "theirs.pt"
        torch.save(theirs, path)
        with pytest.raises(UsageError, match=line):
            import_checkpoint(str(path), str(tmp_path / "out"))

    good = torch.load(GOLDEN / "lamemo.pt", weights_only=True)
    config = good["model_config"]
    refused({}, "has no model_config")
    refused({**good, "model_config": {**config, "attn_type": 2}}, "attn_type 2 .*importable are 0, 3")
    refused({**good, "model_config": {**config, "div_val": 4}}, "div_val 4 .*importable is div_val 1")
    refused({**good, "model_config": {**config, "d_embed": 8}}, "d_embed 8 .*d_model 32")
    refused({**good, "vocab": ["<pad>", *good["vocab"][1:]]}, "<pad>")
    refused({**good, "vocab": ["w0", *good["vocab"][1:]]}, "w0")
    state = dict(good["model_state"])
    del state["layers.1.dec_attn.o_net.weight"]
    refused({**good, "model_state": state}, "lacks layers.1.dec_attn.o_net.weight")
    refused({**good, "extra": Path("code")}, "without running code")
    shutil.copy(GOLDEN / "lamemo.pt", tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:999])
    with pytest.raises(UsageError, match="cut.pt is damaged or cut short"):
        import_checkpoint(str(tmp_path / "cut.pt"), str(tmp_path / "out"))
    with pytest.raises(UsageError, match="nowhere.pt is no file"):
        import_checkpoint(str(tmp_path / "nowhere.pt"), str(tmp_path / "out"))


def test_tasks_of_checkpoints_are_built_from_the_command_line(checkpoint: Path, corpus: Path) -> None:
    """fairseq's loaders pass ``from_checkpoint`` to a task's constructor."""
    state = torch.load(checkpoint, weights_only=True)
    cfg = OmegaConf.create(state["cfg"]["task"])
    assert isinstance(tasks.setup_task(cfg, from_checkpoint=True), MemoryLanguageModelingTask)
