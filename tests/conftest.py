"""What several test files share: a small corpus, and fairseq's commands as processes."""

import os
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
USER_DIR = str(ROOT / "lamemo_fairseq")

# Small matrices: a second thread costs more than it gives.
torch.set_num_threads(1)


def run(command: str, *arguments: Any, check: bool = True, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs one of fairseq's commands, e.g. ``run("train", data, ...)``; ``--user-dir`` is added."""
    words = [sys.executable, "-m", f"fairseq_cli.{command.replace('-', '_')}", *map(str, arguments)]
    if command != "preprocess":
        words += ["--user-dir", USER_DIR]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}\n{done.stdout[-4000:]}")
    return done


def as_characters(text: str) -> List[str]:
    """Lines of space-separated characters, a space as ``_``."""
    return [" ".join("_" if c == " " else c for c in line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin of real text as characters: Python's documentation topics, 12,000 / 1,500 / 2,000 of them."""
    folder = tmp_path_factory.mktemp("corpus")
    topics = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics))
    for split, (start, end) in {
        "train": (0, 12_000),
        "valid": (12_000, 13_500),
        "test": (13_500, 15_500),
    }.items():
        (folder / f"{split}.txt").write_text("\n".join(as_characters(text[start:end])) + "\n")
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / f"{split}.txt")]
    run("preprocess", "--only-source", *splits, "--destdir", folder / "data-bin")
    return folder / "data-bin"


TINY = (
    "--task memory_language_modeling --arch lamemo_lm --decoder-layers 2 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --mem-len 12 --tokens-per-sample 16 --batch-size 4 "
    "--optimizer adam --lr 0.01 --clip-norm 0.25 --log-format simple --log-interval 1 --no-epoch-checkpoints"
).split()


@pytest.fixture(scope="session")
def checkpoint(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LaMemo, trained for some updates by ``fairseq-train``."""
    folder = tmp_path_factory.mktemp("tiny")
    run("train", corpus, *TINY, "--max-update", 30, "--save-dir", folder)
    return folder / "checkpoint_last.pt"


Runner = Callable[..., "subprocess.CompletedProcess[str]"]
