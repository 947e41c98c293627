"""``fairseq-eval-lm`` as a process: what it prints, over shards and ranks too, and how it refuses."""

import math
import re
import shutil
from pathlib import Path
from pydoc_data import topics
from typing import Dict, List, NamedTuple

import pytest
import torch
from bridge import build, dictionary_of
from commands import Command, free_port
from conftest import TINY, USER_DIR, task_config
from eval_reports import REPORT, eval_lm, report
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from reference import ReferenceConfig
from reference_weights import random_weights
from scoring_helpers import losses, random_text

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.dictionary import check_same, identify
from lamemo_fairseq.data.spelling import Spelling
from lamemo_fairseq.evaluation.plan import EvaluationPlan
from lamemo_fairseq.plugin.model import LaMemoLanguageModel
from lamemo_fairseq.plugin.task import MemoryLanguageModelingTask


class Pieces(NamedTuple):
    """Words in pieces: where they were preprocessed, a model of them, and the text that was split."""

    data: Path
    checkpoint: Path
    lines: List[str]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """Real words cut after every third letter, as BPE marks it."""
    folder = tmp_path_factory.mktemp("pieces")
    words = " ".join(text for _, text in sorted(topics.topics.items())).split()
    lines = [" ".join(words[first : first + 9]) for first in range(0, 900, 9)]
    lines.insert(95, "")
    parts = {"train": lines, "valid": lines[90:92], "test": lines[92:]}
    for split, text in parts.items():
        cut = [" ".join(re.sub(r"(\S{3})(?=\S)", r"\1@@ ", word) for word in line.split()) for line in text]
        (folder / f"{split}.txt").write_text("\n".join(cut) + "\n")
    prefixes = [word for split in parts for word in (f"--{split}pref", folder / f"{split}.txt")]
    flags = ["--only-source", "--workers", 1, *prefixes, "--destdir", folder / "bin"]
    Command("preprocess", flags, folder / "preprocess.log").succeed()
    base = [folder / "bin", *TINY, "--user-dir", USER_DIR, "--cpu", "--disable-validation", "--max-update", 4]
    Command("train", [*base, "--save-dir", folder], folder / "train.log").succeed()
    return Pieces(folder / "bin", folder / "checkpoint_last.pt", parts["test"])


def test_the_report_counts_words_and_characters_of_the_text(pieces: Pieces, tmp_path: Path) -> None:
    flags = ["--batch-size", 3, "--context-window", 5, "--num-workers", 2, "--softmax-batch", 20]
    words = ["--remove-bpe", "--output-word-probs", "--output-word-stats"]
    output = eval_lm(pieces.data, pieces.checkpoint, tmp_path / "log", *flags, *words).succeed()
    found = report(output)
    assert found["words"] == sum(len(line.split()) + 1 for line in pieces.lines), "an end of line is a word too"
    preprocessed = (pieces.data.parent / "preprocess.log").read_text()
    tokens = re.search(r"test.txt: \d+ sents, (\d+) tokens", preprocessed)
    assert tokens and found["targets"] == found["scored"] == int(tokens[1])
    assert found["characters"] == sum(len(line) + 1 for line in pieces.lines)
    assert found["memory"] == 12 and found["split"] == "test"
    nats = found["loss"] * found["scored"]
    assert math.log(found["word_perplexity"]) == pytest.approx(nats / found["words"], abs=1e-5)
    assert found["bpc"] == pytest.approx(nats / math.log(2) / found["characters"], abs=1e-5)
    assert math.log(found["perplexity"]) == pytest.approx(found["loss"], abs=1e-5)
    plain = eval_lm(pieces.data, pieces.checkpoint, tmp_path / "plain", *flags[:4]).succeed()
    assert {**report(plain)} == found, "whatever is printed beside it"
    theirs = re.search(r"Loss \(base 2\): ([\d.]+)", plain)
    assert theirs and float(theirs[1]) * math.log(2) == pytest.approx(found["loss"], abs=1e-4)


def test_ranks_add_up_and_shards_say_which_part_they_are(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    meeting = ["--distributed-world-size", 2, "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}"]
    meeting += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
    flags = {
        "whole": ["--batch-size", 4],
        "rank0": [*meeting, "--distributed-rank", 0, "--batch-size", 2],
        "rank1": [*meeting, "--distributed-rank", 1, "--batch-size", 2],
        "shard0": ["--num-shards", 2, "--shard-id", 0, "--batch-size", 2],
        "shard1": ["--num-shards", 2, "--shard-id", 1, "--batch-size", 2],
    }
    running = {name: eval_lm(corpus, checkpoint, tmp_path / name, *more) for name, more in flags.items()}
    outputs = {name: command.succeed() for name, command in running.items()}
    assert not REPORT.search(outputs.pop("rank1"))
    found = {name: report(output) for name, output in outputs.items()}
    parts = {name: one.pop("part") for name, one in found.items()}
    assert parts["whole"] is None
    assert parts["rank0"] == "2 ranks together; the loss above is rank 0's alone"
    assert found["rank0"] == found["whole"]
    shards = [found["shard0"], found["shard1"]]
    for number, one in enumerate(shards):
        assert parts[f"shard{number}"] == f"{one['scored']:.0f} of them in shard {number} of 2"
    for name in ("scored", "partial_memory", "context", "characters"):
        assert sum(one[name] for one in shards) == found["whole"][name]
    nats = sum(one["loss"] * one["scored"] for one in shards)
    assert nats / found["whole"]["scored"] == pytest.approx(found["whole"]["loss"], abs=2e-6)


def test_other_segments_than_in_training_are_said(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Segments of 16, with a window or without one, are as in training, and so are 16 new tokens behind a window."""
    cases = {"same": [], "window": ["--context-window", 5], "new": ["--tokens-per-sample", 21, "--context-window", 5]}
    other = {"shorter": ["--tokens-per-sample", 12], "both": ["--tokens-per-sample", 20, "--context-window", 5]}
    running = {name: eval_lm(corpus, checkpoint, tmp_path / name, *more) for name, more in {**cases, **other}.items()}
    found = {
        name: re.findall(r"WARNING.*--tokens-per-sample (\d+), but the .* with (\d+)", one.succeed())
        for name, one in running.items()
    }
    assert found == {"same": [], "window": [], "new": [], "shorter": [("12", "16")], "both": [("20", "16")]}


@pytest.fixture()
def strangers(corpus: Path, tmp_path: Path) -> Dict[str, Path]:
    """Data that do not fit the checkpoint: another order of symbols, a symbol more, nothing to score."""
    found = {}
    for name in ("order", "size", "empty"):
        found[name] = tmp_path / name
        shutil.copytree(corpus, found[name])
    lines = (corpus / "dict.txt").read_text().splitlines()
    (found["order"] / "dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    (found["size"] / "dict.txt").write_text("\n".join([*lines, "more 1"]) + "\n")
    (tmp_path / "nothing").write_text("")
    flags = ["--only-source", "--srcdict", corpus / "dict.txt", "--testpref", tmp_path / "nothing", "--workers", 1]
    Command("preprocess", [*flags, "--destdir", tmp_path / "nothing-bin"], tmp_path / "log").succeed()
    for suffix in ("bin", "idx"):
        shutil.copy(tmp_path / "nothing-bin" / f"test.{suffix}", found["empty"])
    return found


def test_refusals_are_one_line(corpus: Path, checkpoint: Path, strangers: Dict[str, Path], tmp_path: Path) -> None:
    cases = [
        (corpus, ["--context-window", 16], "--context-window 16 is not below --tokens-per-sample 16"),
        (corpus, ["--context-window", 40], "--context-window 40 is not below --tokens-per-sample 16"),
        (corpus, ["--num-shards", 2, "--shard-id", 2], "--shard-id 2 is not one of --num-shards 2: choose 0 to 1"),
        (corpus, ["--stream-warmup", -1], "--stream-warmup -1 is too small"),
        (strangers["order"], [], "it has the same number of symbols, but not the same"),
        (strangers["size"], [], "it has another size"),
        (strangers["empty"], [], "split test in .* is empty"),
    ]
    running = [eval_lm(data, checkpoint, tmp_path / f"log{n}", *flags) for n, (data, flags, _) in enumerate(cases)]
    for command, (_, _, message) in zip(running, cases):
        output = command.fail()
        assert "Traceback" not in output and "Perplexity" not in output
        assert re.search(f"^error: .*{message}", output, re.MULTILINE), output[-1500:]


def test_a_checkpoint_without_fingerprint_is_read(corpus: Path) -> None:
    """Checkpoints that others made keep nothing of their dictionary; those of a trainer keep it."""
    task = MemoryLanguageModelingTask.setup_task(task_config(corpus))
    task.load_state_dict({})
    task.load_state_dict(task.state_dict())
    other = identify(dictionary_of(len(task.source_dictionary)))
    with pytest.raises(UsageError, match="same number of symbols"):
        check_same(other, task.source_dictionary, str(corpus))


def test_overrides_equal_a_model_built_with_them(corpus: Path, checkpoint: Path) -> None:
    """Memory length, clamped distances and equal lengths, beyond what was trained."""
    task = MemoryLanguageModelingTask.setup_task(task_config(corpus, tokens_per_sample=16))
    values = {"mem_len": 50, "clamp_len": 20, "same_length": True}
    [overridden], cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], values, task)
    assert task.memory_length == 50
    state = torch.load(checkpoint, weights_only=True)["model"]
    weights = {name: tensor for name, tensor in state.items()}
    flags = {"decoder_layers": 2, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 32, "decoder_attention_heads": 2}
    cfg.model.update({**flags, **values})
    built = LaMemoLanguageModel.build_model(cfg.model, task)
    built.load_state_dict(weights)
    [trained], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], {}, task)
    text, plan = random_text(300, 30), EvaluationPlan(16, memory=50)
    found = [losses(model.eval(), text, plan, task.source_dictionary)[0] for model in (overridden, built, trained)]
    assert torch.equal(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 1e-4


def test_what_was_not_scored_is_an_error() -> None:
    cfg = ReferenceConfig(vocab_size=11, layers=1, heads=1, head_dim=4, model_dim=6, ffn_dim=10, mem_len=5)
    model = LaMemoLanguageModel(build(cfg, random_weights(cfg)))
    dictionary = dictionary_of(11)
    batches = EvaluationPlan(4).batches(random_text(30, 11), dictionary, lambda tally: tally.score.check())
    batches.batches = list(batches.batches)[:-1]
    with pytest.raises(UsageError, match="28 targets were scored where 30 were to be"), torch.no_grad():
        for batch in batches:
            answers, _ = model(**batch["net_input"], targets=batch["target"])
            batch["tally"].take(answers)


def test_spelling_of_characters_words_and_pieces() -> None:
    def spelled(symbols: List[str], text: str) -> "tuple[int, int, bool]":
        dictionary = Dictionary()
        for symbol in symbols:
            dictionary.add_symbol(symbol)
        spelling = Spelling.of(dictionary)
        ids = dictionary.encode_line(text, add_if_not_exist=False).long()
        before = torch.cat([torch.tensor([dictionary.eos()]), ids[:-1]])
        return spelling.characters(ids, before), spelling.words(ids), spelling.uses_subwords

    assert spelled(["a", "b", "_", "\\u5f", "madeupword0000"], "a b _ b \\u5f") == (6, 6, False)
    assert spelled(["the", "cat", "@-@"], "the cat @-@ cat") == (len("the cat @-@ cat\n"), 5, False)
    pieces = ["\u2581the", "\u2581c", "at", "\u2581", "s", "e"]
    text = "\u2581the \u2581c at \u2581 s e </s> </s> \u2581c at"
    assert spelled(pieces, text) == (len("the cat se\n\ncat\n"), 3 + 1 + 1 + 1 + 1, True)
    assert spelled(["a", "\u2581", "b"], "a \u2581 b") == (4, 4, False), "fairseq's characters"
    assert spelled(["th@@", "e", "c@@", "at"], "th@@ e c@@ at e") == (len("the cat e\n"), 4, True)
