"""What stands before a result: no warning or note that a user can do nothing about, and all others."""

import logging
import re
import warnings
from pathlib import Path

import pytest
from conftest import TINY, run

from lamemo_fairseq.plugin import warning_filters

TASK = ["--task", "memory_language_modeling", "--tokens-per-sample", "16"]


@pytest.mark.parametrize("command", ["train", "validate", "eval-lm", "generate", "interactive"])
def test_commands_warn_of_nothing(command: str, corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    flags = {
        "train": [*TINY, "--max-update", 2, "--save-dir", tmp_path, "--update-freq", 2],
        "validate": [*TASK, "--path", checkpoint, "--valid-subset", "valid", "--batch-size", 4],
        "eval-lm": [*TASK, "--path", checkpoint, "--gen-subset", "valid"],
        "generate": [*TASK, "--path", checkpoint, "--prefix-size", 4, "--max-len-b", 4, "--prompt-blocks", "1:3"],
        "interactive": [*TASK, "--path", checkpoint, "--max-len-b", 4, "--bpe", "text_characters"],
    }
    output = run(command, corpus, *flags[command], input="the\n" if command == "interactive" else None).stdout
    notes = "detected shared parameter|reuse_epoch_itr|reuse_dataloader|rebuild_batches|creating new batches"
    assert not re.findall(rf".*(?:Warning|WARNING|DEBUG|{notes}).*", output)


def test_parameters_that_are_shared_are_still_told(corpus: Path, tmp_path: Path) -> None:
    """Fairseq takes a bias that is left out for one; tied embeddings are one."""
    flags = ["--adaptive-softmax-cutoff", "20,40", "--adaptive-input", "--tie-adaptive-weights", "--max-update", 1]
    criterion = ["--criterion", "memory_cross_entropy", "--disable-validation", "--no-save", "--save-dir", tmp_path]
    output = run("train", corpus, *TINY, *flags, *criterion).stdout
    shared = re.findall(r"detected shared parameter: (\S+) <- (\S+)", output)
    assert shared and all("embed" in first and not first.endswith("bias") for first, _ in shared)


def test_only_these_notes_are_filtered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("fairseq.tasks.fairseq_task")
    for message in ("rebuild_batches = False", "creating new batches for epoch 3", "rebuild_batches = False, alas"):
        logger.info(message)
    assert caplog.messages == ["rebuild_batches = False, alas"]


def test_only_these_warnings_are_filtered() -> None:
    kept = [
        ("torch.utils.data.dataloader", "This DataLoader will create 999 worker processes in total"),
        ("fairseq.tasks.fairseq_task", "`torch.cuda.amp.autocast` is disabled"),
        ("my.module", "'pin_memory' argument is set as true but no accelerator is found, in a module of the user's"),
        ("hydra.compose", "The strict flag"),
    ]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        warning_filters.install()
        for module, message in [*warning_filters.UNAVOIDABLE, *kept]:
            warnings.warn_explicit(message + " and so on", UserWarning, "file.py", 1, module=module or "sys")
    assert [str(warning.message) for warning in shown] == [message + " and so on" for _, message in kept]
