"""The task through fairseq's commands: what it feeds, and what must not leak from one set of streams to another."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, USER_DIR, Command, run, task_config
from fairseq import utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.data import data_utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
from hypothesis import given, settings
from hypothesis import strategies as st

import lamemo_fairseq
from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.layout import Layout, rotation
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.data.text import Text
from lamemo_fairseq.plugin.task import MemoryLanguageModelingTask
from lamemo_fairseq.training.train_step import TrainingMemory

PAD, EOS = 1, 2


class Lines:
    """An indexed dataset as ``Text`` sees it: lines of tokens that are all different."""

    def __init__(self, sizes) -> None:
        self.sizes = np.array(sizes)
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.lines = [torch.arange(a, b) + 100 for a, b in zip(starts, starts[1:])]

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.lines[index]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(0, 10**6),
)
def test_every_token_is_a_target_once_behind_the_token_before_it(sizes, rows, ranks, tokens, offset) -> None:
    text = Text(Lines(sizes), "train")
    layout = Layout.even(text.total, rows * ranks, tokens, offset=offset % text.total)
    segments = Segments(text, layout, PAD, EOS)
    batches = segments.batches(rows, ranks)
    assert len(batches) % ranks == 0
    found = []
    filled = sum(first < end for first, end in map(layout.scored, range(rows * ranks)))
    for rank in range(ranks):
        previous = [None] * rows
        holding = min(rows, filled)  # rows of which no rank has text are left out
        for number, items in enumerate(batches[rank::ranks]):
            batch = segments.collater([segments[item] for item in items])
            assert batch["net_input"]["segment"] == number
            sources, targets = batch["net_input"]["src_tokens"], batch["target"]
            assert sources.shape == targets.shape == (holding, layout.columns(number))
            assert batch["ntokens"] == int(targets.ne(PAD).sum())
            for row in range(holding):
                kept = targets[row].ne(PAD)
                assert not kept[int(kept.sum()) :].any(), "only the tail is padded"
                for source, target in zip(sources[row][kept].tolist(), targets[row][kept].tolist()):
                    assert source == (target - 1 if target > 100 else EOS)
                    # Rows go on where they were: that is what memory relies on.
                    wrapped = previous[row] == 100 + text.total - 1 and target == 100
                    assert previous[row] in (None, target - 1) or wrapped
                    previous[row] = target
                    found.append(target)
    assert sorted(found) == list(range(100, 100 + text.total))


def test_ranks_read_the_streams_of_one_rank_with_all_rows() -> None:
    text = Text(Lines([7] * 30), "train")
    segments = Segments(text, Layout.even(text.total, 6, 5), PAD, EOS)
    whole = segments.batches(6, 1)
    for rank in range(3):
        shared = segments.batches(2, 3)[rank::3]
        assert shared == [batch[2 * rank : 2 * rank + 2] for batch in whole]


def test_rotation_is_seeded_and_differs_between_epochs() -> None:
    offsets = [rotation(1000, 1, epoch) for epoch in range(1, 6)]
    assert offsets == [rotation(1000, 1, epoch) for epoch in range(1, 6)]
    assert len(set(offsets)) > 1 and offsets != [rotation(1000, 2, epoch) for epoch in range(1, 6)]


def test_a_stream_continues_only_what_it_expects() -> None:
    store, one, two = MemoryStore("x"), object(), object()

    def state(rows: int) -> MemoryState:
        return MemoryState({"rows": torch.zeros(rows, 3, 1)}, 3, 3)

    store.keep(one, 0, state(4))
    assert store.recall(one, 1, 4) is not None
    assert store.recall(two, 1, 4) is None, "another decoder"
    assert store.recall(one, 0, 4) is None, "segment 0 begins a text"
    assert store.recall(one, 2, 4) is None, "a segment was left out"
    assert store.recall(one, 1, 3) is None, "another number of streams"


def test_memory_of_an_update_that_was_not_made_is_dropped() -> None:
    memory, decoder = TrainingMemory("x"), object()
    states = [MemoryState({"rows": torch.full((1, 1, 1), float(n))}, 1, 1) for n in range(6)]

    def value(segment: int) -> float:
        found = memory.recall(decoder, segment, 1)
        assert found is not None
        return float(found.tensors["rows"])

    memory.begin()
    memory.keep(decoder, 0, states[0])
    memory.commit()
    memory.begin()  # two micro-batches, and then the gradients overflow
    assert value(1) == 0
    memory.keep(decoder, 1, states[1])
    assert value(2) == 1
    memory.keep(decoder, 2, states[2])
    memory.begin()
    assert value(1) == 0, "the same batches once more"
    assert value(3) == 0, "or the ones behind them"
    memory.keep(decoder, 3, states[3])
    memory.commit()
    assert value(4) == 3


def load(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)


def test_training_is_the_same_with_and_without_validation(corpus: Path, tmp_path: Path) -> None:
    common = [corpus, *TINY, "--max-update", 8, "--dropout", 0.1, "--save-interval-updates", 100]
    run("train", *common, "--save-dir", tmp_path / "without", "--disable-validation")
    # valid and test are validated with other batch sizes than training's, every other update, by two workers.
    done = run(
        "train",
        *common,
        *["--save-dir", tmp_path / "with", "--valid-subset", "valid,test", "--validate-interval-updates", 2],
        *["--batch-size-valid", 3, "--num-workers", 2, "--best-checkpoint-metric", "bpc"],
    )
    assert len(re.findall(r"valid on 'test' subset.* bpc ", done.stdout)) == 4
    one, other = (load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("without", "with"))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert (tmp_path / "with" / "checkpoint_best.pt").exists()


def test_validate_command_agrees_with_eval_lm(corpus: Path, checkpoint: Path) -> None:
    task = ["--task", "memory_language_modeling"]
    done = run("validate", corpus, *task, "--path", checkpoint, "--valid-subset", "test", "--batch-size", 1)
    validated = float(re.findall(r"test .*\| bpc ([0-9.]+)", done.stdout)[-1])
    done = run("eval-lm", corpus, *task, "--path", checkpoint, "--gen-subset", "test", "--tokens-per-sample", 16)
    scored = float(re.findall(r"Loss \(base 2\): ([0-9.]+)", done.stdout)[0])
    assert f"Evaluated {len(load_text(corpus, 'test')):,} tokens" in done.stdout
    assert abs(validated - scored) < 2e-3  # both print three or four digits


def test_language_modeling_task_runs_without_memory_and_says_so_once(corpus: Path, tmp_path: Path) -> None:
    words = ["language_modeling" if word == "memory_language_modeling" else word for word in TINY]
    done = run("train", corpus, *words, "--max-update", 3, "--save-dir", tmp_path)
    assert done.stdout.count("each block is read WITHOUT MEMORY") == 1
    assert "num_updates=3" in done.stdout


def test_evaluation_without_task_warns(corpus: Path, checkpoint: Path) -> None:
    """Fairseq's own task is what it takes then."""
    done = run("eval-lm", corpus, "--path", checkpoint, "--gen-subset", "valid", "--tokens-per-sample", 16)
    assert len(re.findall(r"WARNING.*read WITHOUT MEMORY: --task memory_language_modeling", done.stdout)) == 1
    assert "Perplexity" in done.stdout and "targets scored" not in done.stdout


def test_data_directories_take_turns(corpus: Path, tmp_path: Path) -> None:
    """Two directories joined by a colon: epoch 2 reads the second, and its split is another text."""
    second = tmp_path / "second"
    second.mkdir()
    for end in ("bin", "idx"):
        (second / f"train.{end}").write_bytes((corpus / f"test.{end}").read_bytes())
        (second / f"valid.{end}").write_bytes((corpus / f"valid.{end}").read_bytes())
    (second / "dict.txt").write_bytes((corpus / "dict.txt").read_bytes())
    done = run(
        "train",
        f"{corpus}:{second}",
        *TINY,
        *["--batch-size", 16, "--max-epoch", 2, "--save-dir", tmp_path / "out", "--random-offset"],
    )
    lengths = [len(text) for text in (load_text(corpus, "train"), load_text(second, "train"))]
    expected = [math.ceil(math.ceil(length / 16) / 16) for length in lengths]  # 16 rows, segments of 16
    assert [int(n) for n in re.findall(r"grouped total_num_itrs = (\d+)", done.stdout)] == expected


def load_text(folder: Path, split: str) -> torch.Tensor:
    lines = data_utils.load_indexed_dataset(str(folder / split))
    text = Text(lines, split)
    return text.span(0, text.total)


@pytest.mark.parametrize("rows", [1, 5, 5000])
def test_the_tasks_iterator_feeds_the_whole_split(corpus: Path, rows: int) -> None:
    """A batch larger than the text works too."""
    task = MemoryLanguageModelingTask.setup_task(task_config(corpus, tokens_per_sample=32))
    task.load_dataset("test")
    batches = task.get_batch_iterator(task.dataset("test"), max_sentences=rows).next_epoch_itr(shuffle=False)
    columns = [[] for _ in range(rows)]
    for batch in batches:
        for row, target in enumerate(batch["target"]):
            columns[row].append(target[target.ne(PAD)])
    text = torch.cat([piece for row in columns for piece in row])
    assert torch.equal(text, load_text(corpus, "test"))


def test_a_hundred_thousand_streams_of_a_small_text(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    """More streams than tokens take no longer than as many as there are: a second, of which fairseq has most."""
    many = ["--batch-size", 100_000, "--cpu"]
    updates = ["--max-update", 2, "--no-save", "--save-dir", tmp_path, "--train-subset", "valid"]
    path = [
        "--task",
        "memory_language_modeling",
        "--path",
        checkpoint,
        "--gen-subset",
        "valid",
        "--tokens-per-sample",
        16,
    ]
    commands = [Command("train", [corpus, *TINY, *many, *updates, "--user-dir", USER_DIR], tmp_path / "train")]
    commands += [Command("eval_lm", [corpus, *path, *many, "--user-dir", USER_DIR], tmp_path / "eval")]
    for command in commands:
        command.succeed(60)


@pytest.mark.parametrize("flag", ["random_offset", "varlen"])
def test_flags_of_training_are_not_those_of_validation(corpus: Path, flag: str) -> None:
    """Whatever the split is called: the trainer says where it trains."""

    def sizes_and_start(where: Any, **flags: Any) -> Any:
        task = MemoryLanguageModelingTask.setup_task(task_config(corpus, tokens_per_sample=32, **flags))
        task.load_dataset("test")
        iterator = task.get_batch_iterator(task.dataset("test"), max_sentences=2, seed=3, **where)
        batches = iterator.next_epoch_itr(shuffle=False)
        inputs = [batch["net_input"]["src_tokens"] for batch in batches]
        return [tokens.size(1) for tokens in inputs], inputs[0][0].tolist()

    training, validation = {"grouped_shuffling": False}, {}  # what the trainer gives
    plain = sizes_and_start(training)
    assert sizes_and_start(training, **{flag: True}) != plain
    assert sizes_and_start(validation, train_subset="test", **{flag: True}) == plain


def test_user_dir_may_be_imported_first() -> None:
    """A plain import registers everything, and --user-dir of the same folder afterwards is no second time."""
    registered = dict(TASK_REGISTRY), dict(ARCH_MODEL_REGISTRY), dict(CRITERION_REGISTRY)
    assert registered[0]["memory_language_modeling"] is MemoryLanguageModelingTask
    assert registered[1]["lamemo_lm"] is lamemo_fairseq.LaMemoLanguageModel
    assert registered[2]["memory_cross_entropy"] is lamemo_fairseq.MemoryCrossEntropyCriterion
    utils.import_user_module(type("Args", (), {"user_dir": USER_DIR}))
    assert registered == (TASK_REGISTRY, ARCH_MODEL_REGISTRY, CRITERION_REGISTRY), "as before, not a second time"
