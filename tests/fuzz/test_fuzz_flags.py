"""Random sets of flags through ``fairseq-train`` and ``fairseq-eval-lm``, as processes.

Every set must end well or with one line that says what is wrong: no traceback that is not explained, no target scored
other than once, no loss that differs from a plain sum. ``--fuzz-seconds`` and ``--fuzz-seed`` say how long and which
sets.
"""

import math
import random
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import torch
from commands import PLUGIN, Command
from conftest import Told
from explained import explanation, refusal
from fairseq import checkpoint_utils
from flag_table import EVALUATION, FAIRSEQ, KIND, MODEL, TASK, as_words, draw_evaluation, draw_training
from plain_sum import mean_loss

import lamemo_fairseq  # noqa: F401  (registers)
from lamemo_fairseq.plugin.config import LaMemoConfig, MemoryLanguageModelingConfig

#: flags of the task that generation alone uses, or that fairseq fills in
ELSEWHERE = {
    *(
        "data",
        "stop_at_eos",
        "write_unk",
        "carry_memory",
        "prompt_blocks",
        "log_interval",
        "prefix_size",
        "seed",
        "context_window",
    ),
    *("batch_size", "batch_size_valid", "train_subset", "dataset_impl", "path"),
}
REPORT = re.compile(
    r"(\d+) targets in the split(?: \(([^)]*)\))?, (\d+) targets scored.*? loss ([\d.einfa+-]+) nats per token"
)


def test_every_flag_is_drawn() -> None:
    """A flag that is added to the model or to the task is added to the table too."""
    drawn = {name.replace("-", "_") for table in (MODEL, TASK, EVALUATION, *KIND.values()) for name in table}
    own = {*LaMemoConfig.__dataclass_fields__, *MemoryLanguageModelingConfig.__dataclass_fields__}
    assert {name for name in own if not name.startswith("_")} - ELSEWHERE <= drawn
    assert not {name.replace("-", "_") for name in MODEL} - set(LaMemoConfig.__dataclass_fields__)
    assert FAIRSEQ


def fault(output: str, code: int) -> Optional[str]:
    """What is wrong with how a command ended, or None."""
    if "Traceback (most recent call last)" in output and explanation(output) is None:
        return "a traceback"
    if code != 0 and explanation(output) is None and not refusal(output):
        return f"status {code} without a line that says why"
    return None


def own_part(part: Optional[str]) -> Optional[int]:
    """Targets of one shard, where the report names them."""
    found = re.match(r"(\d+) of them in shard", part or "")
    return int(found.group(1)) if found else None


def wrong_score(output: str, chosen: Dict[str, Any], checkpoint: Path, data: Path) -> Optional[str]:
    """Where an evaluation's figures are not what a plain sum gives, or None."""
    found = REPORT.findall(output)
    if len(found) != 1:
        return f"{len(found)} reports"
    targets, part, scored, loss = found[0]
    expected = own_part(part) if part else int(targets)
    if int(scored) != expected:
        return f"{scored} of {expected} targets scored"
    if part or chosen["memory-reset"] == "document" or chosen["sample-break-mode"] == "eos":
        return None  # tests/evaluation has these against the reference
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(checkpoint)], arg_overrides={"data": str(data), "memory_reset": "never"}
    )
    task.load_dataset("test")
    text = task.datasets["test"].span(0, task.datasets["test"].total)
    context = chosen["context-window"] or 0
    tokens = chosen["tokens-per-sample"] - context
    rows = chosen["batch-size"] or 1  # eval-lm asks for 36000 tokens where a user asks for none, so rows alone count
    decoder = models[0].float().eval().decoder
    plain = mean_loss(decoder, text, task.dictionary.eos(), tokens, context, rows, chosen["stream-warmup"])
    # Printed with six decimals; single precision adds some parts in a million.
    if not math.isclose(plain, float(loss), rel_tol=2e-5, abs_tol=2e-6):
        return f"loss {loss}, plain sum {plain:.6f}"
    return None


def try_one(number: int, rng: random.Random, data: Path, folder: Path) -> "tuple[str, List[str]]":
    """One set: (what is wrong or "", what happened)."""
    chosen = draw_training(rng)
    save_dir = folder / f"set{number}"
    words = [word.replace("LOG", str(folder / f"{number}.csv")) for word in as_words(chosen)]
    base = [data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--arch", "lamemo_lm", "--cpu"]
    command = Command("train", [*base, *words, "--save-dir", save_dir], folder / f"{number}.train")
    code = command.wait(120)
    shown = "fairseq-train " + " ".join(words)
    wrong = fault(command.text(), code)
    if wrong:
        return f"{wrong}\n{shown}\n{command.text()[-3000:]}", []
    checkpoint = save_dir / "checkpoint_last.pt"
    if code != 0 or not checkpoint.is_file():
        return "", ["refused" if code else "nothing saved"]
    weights = torch.load(checkpoint, weights_only=True)["model"]
    finite = all(bool(torch.isfinite(value).all()) for value in weights.values())
    asked = draw_evaluation(rng, chosen)
    words = as_words(asked)
    base = [data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--path", checkpoint, "--cpu"]
    command = Command("eval_lm", [*base, "--gen-subset", "test", *words], folder / f"{number}.eval")
    code = command.wait(120)
    shown += "\nfairseq-eval-lm " + " ".join(words)
    wrong = fault(command.text(), code)
    if wrong is None and code == 0:
        wrong = wrong_score(command.text(), asked, checkpoint, data) if finite else "weights are not finite, status 0"
    if wrong:
        return f"{wrong}\n{shown}\n{command.text()[-3000:]}", []
    return "", ["trained", "evaluation refused" if code else "evaluated"]


@pytest.mark.slow  # as long as --fuzz-seconds says, five minutes by default
def test_random_flag_sets(corpus: Path, tmp_path: Path, request: pytest.FixtureRequest, told: Told) -> None:
    seconds, seed = request.config.getoption("--fuzz-seconds"), request.config.getoption("--fuzz-seed")
    faults: List[str] = []
    outcomes: Dict[str, int] = {}
    started, number = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        rng = random.Random(f"{seed}/{number}")
        wrong, happened = try_one(number, rng, corpus, tmp_path)
        if wrong:
            faults.append(f"set {number} (--fuzz-seed {seed}): {wrong}")
        for outcome in happened:
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        number += 1
    told(f"fuzz: {number} sets of flags tried in {seconds} s with --fuzz-seed {seed}: {outcomes}, {len(faults)} faults")
    assert not faults, "\n\n".join(faults)
    assert number > 20 and outcomes.get("evaluated", 0) > number // 10, outcomes
