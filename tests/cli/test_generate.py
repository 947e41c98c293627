"""``lamemo generate`` as a process: plain text in and out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
from commands import ROOT
from conftest import TINY, run

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli.main import main
from lamemo_fairseq.generation.python_api import TextInterface


def lamemo(*words: object, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """The command as a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "lamemo_fairseq", *map(str, words)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def lm(corpus: Path, checkpoint: Path) -> TextInterface:
    """The same model in Python."""
    return LaMemoLanguageModel.from_pretrained(
        str(checkpoint.parent), checkpoint.name, data_name_or_path=str(corpus), bpe="text_characters"
    )


def test_a_checkpoint_greedy(lm: TextInterface, checkpoint: Path) -> None:
    """The data directory is the one of the training; standard output holds the text alone."""
    done = lamemo("generate", checkpoint, "--prompt", "the value\nof", "--max-tokens", 40, "--bpe", "text_characters")
    assert done.returncode == 0, done.stderr
    assert done.stdout == lm.sample("the value\nof", max_len_b=40) + "\n"


def test_a_directory_sampled_as_json(lm: TextInterface, checkpoint: Path) -> None:
    flags = ["--sampling", "--top-k", 8, "--temperature", 0.8, "--beam", 2, "--seed", 3, "--max-len-b", 20, "--json"]
    done = lamemo(
        "generate", checkpoint.parent, "--prompt", "the", "--prompt", "a class", "--bpe", "text_characters", *flags
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    prompts = [lm.encode("the"), lm.encode("a class")]
    expected = lm.generate(prompts, beam=2, sampling=True, sampling_topk=8, temperature=0.8, seed=3, max_len_b=20)
    assert [one["prompt"] for one in found] == ["the", "the", "a class", "a class"]
    assert [one["text"] for one in found] == [lm.decode(h["tokens"]) for hs in expected for h in hs]
    for one, hypothesis in zip(found, [h for hs in expected for h in hs]):
        scores = hypothesis["positional_scores"]
        assert (one["tokens"], one["seed"]) == (20, 3) and one["prompt_tokens"] == len(one["prompt"])
        assert one["log_probability"] == pytest.approx(float(scores[-20:].sum()), abs=1e-4)
        assert one["prompt_log_probability"] == pytest.approx(float(scores[:-20].sum()), abs=1e-4)


@pytest.mark.slow  # prepares, trains and writes, with processes of their own, three times
@pytest.mark.parametrize(
    "form, shown",
    [
        (["--characters"], "The  cat isn't"),
        (["--words"], "The cat isn't"),
        (["--bpe", 60, "--moses", "en"], "The cat isn't"),
    ],
    ids=["characters", "words", "pieces"],
)
def test_text_is_cut_as_the_data_was(tmp_path: Path, form: List[object], shown: str) -> None:
    """From text to text: what ``lamemo prepare`` wrote down is all that is needed."""
    (tmp_path / "text").write_text("The  cat isn't here, said the other.\n" * 40, encoding="utf-8")
    words = ["text", "--text", "text", "--split", "80,10,10", "--dest", "mine", *form]
    assert (done := lamemo("prepare", *words, cwd=tmp_path)).returncode == 0, done.stderr
    run("train", tmp_path / "mine" / "data-bin", *TINY, "--max-update", 2, "--save-dir", tmp_path / "run")
    done = lamemo("generate", "run", "--prompt", "The  cat isn't", "--max-tokens", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown) and "@@" not in done.stdout and "&apos;" not in done.stdout
    assert ("text is cut at white space" in done.stderr) == (form == ["--words"])


@pytest.mark.parametrize(
    "words, line",
    [
        (["nowhere", "--prompt", "a"], "MODEL nowhere is no file"),
        (["{empty}", "--prompt", "a"], "MODEL {empty} has none of model.pt"),
        (["{model}", "--prompt", "a", "--data", "{empty}"], "--data {empty} has no dict.txt"),
        (["{model}", "--prompt", "a", "--seed", "1"], "--seed 1 has no effect without --sampling"),
        (["{model}", "--prompt", ""], "the text is empty"),
        (["{model}", "--prompt", "a", "--top-p", "2", "--sampling"], "--sampling-topp 2 is not in"),
        (["{model}", "--prompt", "a", "--device", "cuda:99"], "--device cuda:99 is not there"),
        (["{model}", "--prompt", "a", "--bpe", "mine"], "--bpe mine is not known"),
        (["{codes}", "--prompt", "a"], "{codes} is truncated or damaged"),
    ],
)
def test_mistakes(words: List[str], line: str, checkpoint: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "codes").write_text("no checkpoint")
    (tmp_path / "dict.txt").write_text("a 1\n")
    places = {"model": checkpoint, "empty": tmp_path / "empty", "codes": tmp_path / "codes"}
    assert main(["generate", *(word.format(**places) for word in words)]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"lamemo generate: {line.format(**places)}")
