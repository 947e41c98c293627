"""The grid of evaluations: in one run, stopped and started again, and the page that shows it."""

import argparse
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
from commands import Command
from conftest import ROOT, TINY, USER_DIR
from eval_reports import eval_lm, report

from lamemo_fairseq.cli import evaluate
from lamemo_fairseq.core.errors import UsageError


def main(arguments: List[str]) -> None:
    """``lamemo evaluate`` in this process, whose logging stays as it is."""
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    evaluate.evaluate(parser.parse_args(arguments))


def results(folder: Path) -> List[Dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


def flags(data: Path, checkpoints: List[Path], folder: Path, *more: Any) -> List[str]:
    """The command's arguments for a small grid."""
    given = [data, "--path", *checkpoints, "--results-path", folder, "--tokens-per-sample", 16, "--cpu", *more]
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def recurrent(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Transformer-XL, trained for some updates."""
    folder = tmp_path_factory.mktemp("recurrent")
    base = [corpus, *TINY, "--user-dir", USER_DIR, "--cpu", "--disable-validation", "--max-update", 30]
    Command("train", [*base, "--memory-type", "recurrence", "--save-dir", folder], folder / "log").succeed()
    return folder / "checkpoint_last.pt"


def test_a_grid_of_two_checkpoints(
    corpus: Path, checkpoint: Path, recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--mem-len", 24, 0, "--context-window", 0, 4, 16, "--batch-size", 4, "--attention"]
    arguments = flags(corpus, [checkpoint, recurrent], tmp_path / "results", *grid)
    main(arguments)
    first = capsys.readouterr().out
    assert first.count("left out, because the context window is not below the segment length") == 4
    found = results(tmp_path / "results")
    assert len(found) == 2 * 2 * 2
    with open(tmp_path / "results" / "results.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss_nats"]) for row in table] == [one["loss_nats"] for one in found]
    for one in found:
        assert one["scored"] == one["targets"] > 1900
        assert len(one["loss_by_position"]) == 16 - one["context_window"]
        assert one["tokens_per_second"] > 0
        # Without memory nothing falls on it; with it, weights by distance add up to a part of all attention.
        weights = one["attention_by_distance"]
        assert (one["attention_on_memory"] > 0) == (one["mem_len"] > 0) == bool(weights)
        looks_ahead = one["memory_type"] == "lookahead" and one["mem_len"] > 0
        assert bool(one["alpha_by_distance"]) == looks_ahead
        if looks_ahead:
            assert len(one["alpha_by_distance"]) == one["mem_len"] + 1
            assert all(0 < alpha < 1 for alpha in one["alpha_by_distance"][1:])
            assert sum(one["alpha_histogram"]) == pytest.approx(1)
    for name in ("perplexity.png", "positions.png", "attention.png"):
        assert (tmp_path / "results" / name).read_bytes().startswith(b"\x89PNG")
    # Once more: nothing is scored again.
    written = (tmp_path / "results" / "results.json").read_bytes()
    main(arguments)
    assert capsys.readouterr().out.count("kept from before: ") == 8
    assert (tmp_path / "results" / "results.json").read_bytes() == written
    # fairseq-eval-lm gives the same number for the same cell.
    [cell] = [
        one for one in found if (one["memory_type"], one["mem_len"], one["context_window"]) == ("lookahead", 24, 4)
    ]
    more = ["--model-overrides", "{'mem_len': 24}", "--context-window", 4, "--batch-size", 4]
    told = report(eval_lm(corpus, checkpoint, tmp_path / "log", *more).succeed())
    assert told["loss"] == pytest.approx(cell["loss_nats"], abs=1e-6)
    same = {"scored": "scored", "partial_memory": "scored_below_mem_len", "context": "context_tokens"}
    for name, key in same.items():
        assert told[name] == cell[key]


def test_another_checkpoint_at_the_same_path_is_scored_anew(
    corpus: Path, checkpoint: Path, recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "model.pt", tmp_path / "results"
    for source in (checkpoint, recurrent, recurrent):
        path.write_bytes(source.read_bytes())
        main(flags(corpus, [path], folder))
    assert [one["memory_type"] for one in results(folder)] == ["lookahead", "recurrence"]
    assert capsys.readouterr().out.count("kept from before") == 1


def test_a_run_that_was_killed_goes_on_where_it_was(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    arguments = flags(corpus, [checkpoint], folder, "--mem-len", *range(1, 40))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "lamemo_fairseq", "evaluate", *arguments]
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while not (folder / "results.json").exists() and time.monotonic() < end:
            assert running.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    before = results(folder)
    assert 1 <= len(before) < 39
    more = [str(number) for number in range(len(before) + 1, len(before) + 3)]
    known = [str(number) for number in range(1, len(before) + 1)]
    main(flags(corpus, [checkpoint], folder, "--mem-len", *known, *more))
    after = results(folder)
    assert after[: len(before)] == before, "times and all"
    assert [one["mem_len"] for one in after] == list(range(1, len(before) + 3))


def test_bad_input(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    def refused(message: str, *more: Any, checkpoints: List[Path] = [checkpoint]) -> None:  # noqa: B006
        with pytest.raises(UsageError, match=message):
            main(flags(corpus, checkpoints, tmp_path / "results", *more))

    refused("--context-window 16 is not below --tokens-per-sample 16", "--context-window", 16)
    refused("--model-overrides mem_len=3 is no dictionary", "--model-overrides", "mem_len=3")
    refused("there is no file .*absent.pt", checkpoints=[tmp_path / "absent.pt"])
    refused("there is no file .*/absent.bin", "--gen-subset", "absent")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text("{")
    refused("results.json is no record of an evaluation")


def commands_of(page: str) -> List[List[str]]:
    """The commands in a page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.slow  # five evaluations as processes, and ten cells of a grid
def test_the_commands_of_the_example_run(corpus: Path, checkpoint: Path, recurrent: Path, tmp_path: Path) -> None:
    page = (ROOT / "examples" / "evaluation" / "README.md").read_text()
    places = {
        "runs/quickstart/corpus/data-bin": str(corpus),
        "runs/quickstart/lamemo/checkpoint_last.pt": str(checkpoint),
        "runs/quickstart/transformer-xl/checkpoint_last.pt": str(recurrent),
        "runs/evaluation": str(tmp_path / "evaluation"),
        "lamemo_fairseq": USER_DIR,
    }
    running = []
    commands = commands_of(page)
    assert len(commands) >= 5
    for number, (program, *words) in enumerate(commands):
        given = [places.get(word, word) for word in words]
        if program == "fairseq-eval-lm":
            running.append(Command("eval_lm", [*given, "--cpu"], tmp_path / f"log{number}"))
        elif words[0] != "score":  # tests/cli/test_score.py has that
            assert [program, *words[:1]] == ["lamemo", "evaluate"]
            main([*given[1:], "--cpu"])
    for command in running:
        report(command.succeed())
    assert (tmp_path / "evaluation" / "attention.png").exists()
