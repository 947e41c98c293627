"""What several test files share: a small corpus, and fairseq's commands as processes."""

import pydoc_data.topics
import tempfile
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import pytest
import torch
from commands import PLUGIN as USER_DIR
from commands import ROOT, Command  # noqa: F401

from lamemo_fairseq.plugin.config import MemoryLanguageModelingConfig

# Small matrices: a second thread costs more than it gives.
torch.set_num_threads(1)


Told = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long and from which seed the fuzz under tests/fuzz runs."""
    parser.addoption("--fuzz-seconds", type=float, default=300, help="time budget of the fuzz of flags")
    parser.addoption("--fuzz-seed", type=int, default=1, help="from which its sets are drawn")


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Lines that stand in the summary at the end, also of tests that pass, also of other workers."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Writes what tests have to tell."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "told" and report.when == "call":
                    terminalreporter.write_line(str(value))


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str


def run(command: str, *arguments: Any, check: bool = True, input: Optional[str] = None, **environment: str) -> Done:
    """Runs one of fairseq's commands as a process, e.g. ``run("train", data, ...)``; ``--user-dir`` is added."""
    words = [str(argument) for argument in arguments]
    if command != "preprocess":
        words += ["--user-dir", USER_DIR]
    with tempfile.TemporaryDirectory() as folder:
        stdin = None
        if input is not None:
            stdin = Path(folder) / "input"
            stdin.write_text(input, encoding="utf-8")
        process = Command(command.replace("-", "_"), words, Path(folder) / "output", stdin=stdin, **environment)
        done = Done(process.wait(300), process.text())
    if check and done.returncode != 0:
        raise AssertionError(f"fairseq-{command} {' '.join(words)}\n{done.stdout[-4000:]}")
    return done


def task_config(data: Path, **changes: Any) -> MemoryLanguageModelingConfig:
    """The task's flags with their defaults; those that fairseq fills in from other groups, as it does."""
    filled = {"seed": 1, "batch_size": 1, "batch_size_valid": 1, "dataset_impl": None, "prefix_size": 0, "path": None}
    more = {"context_window": 0, "log_interval": 100, "train_subset": "train"}
    return MemoryLanguageModelingConfig(data=str(data), **{**filled, **more, **changes})


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
