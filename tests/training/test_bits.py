"""Bits in training's logs are called what they are: ``bpc`` is what evaluation calls bits per character, or absent."""

import csv
import re
from pathlib import Path
from typing import List

import pytest
from commands import english
from conftest import TINY, as_characters, run

FORMS = {
    "characters": lambda lines: as_characters("\n".join(lines)),
    "words": lambda lines: lines,
    "pieces": lambda lines: [
        " ".join(re.sub(r"(\w{3})(?=\w)", r"\1@@ ", word) for word in line.split()) for line in lines
    ],
}


@pytest.fixture(scope="module", params=sorted(FORMS))
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    flags: List[object] = []
    for split, lines in {"train": english(600), "valid": english(200, 5000)}.items():
        (folder / f"{split}.txt").write_text("\n".join(FORMS[request.param](lines)) + "\n", encoding="utf-8")
        flags += [f"--{split}pref", folder / f"{split}.txt"]
    run("preprocess", "--only-source", *flags, "--destdir", folder / "bin")
    return folder / "bin"


def test_logged_bits_are_those_that_evaluation_finds(data: Path, tmp_path: Path) -> None:
    characters = data.parent.name.startswith("characters")
    metric = "bpc" if characters else "bits_per_token"
    flags = ["--max-update", 3, "--best-checkpoint-metric", metric, "--save-dir", tmp_path]
    flags += ["--csv-log", tmp_path / "log.csv"]
    output = run("train", data, *TINY, *flags).stdout
    (valid,) = re.findall(r"valid on 'valid' subset \| (.*)", output)
    logged = dict(re.findall(r"(\w+) ([\d.]+)", valid))
    assert ("bpc" in logged) == ("bpc=" in output) == characters
    with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3 and all(row["bpc"] == (row["bits_per_token"] if characters else "") for row in rows)
    assert float(rows[-1]["bits_per_token"]) > 1
    scored = run(
        *("eval-lm", data, "--path", tmp_path / "checkpoint_best.pt", "--gen-subset", "valid", "--batch-size", 4),
        *("--task", "memory_language_modeling", "--tokens-per-sample", 16, "--stream-warmup", 0),
    ).stdout
    (nats,) = re.findall(r"loss ([\d.]+) nats per token", scored)
    (per_character,) = re.findall(r"([\d.]+) bits per character", scored)
    assert float(logged["bits_per_token"]) == pytest.approx(float(nats) / 0.693147, abs=2e-3)
    if characters:
        assert float(logged["bpc"]) == pytest.approx(float(per_character), abs=2e-3)
    else:
        assert float(logged["bits_per_token"]) > 1.5 * float(per_character)


def test_a_best_checkpoint_by_bits_per_character_needs_characters(data: Path, tmp_path: Path) -> None:
    """Said before the first update, with what to write instead."""
    flags = [*TINY, "--max-update", 2, "--best-checkpoint-metric", "bpc", "--save-dir", tmp_path]
    characters = data.parent.name.startswith("characters")
    done = run("train", data, *flags, check=False)
    assert (done.returncode == 0) == characters
    if not characters:
        assert done.stdout.splitlines()[-1].startswith("error: --best-checkpoint-metric bpc is bits per character, but")
        assert "choose --best-checkpoint-metric bits_per_token" in done.stdout and "num_updates" not in done.stdout
        run("train", data, *flags, "--disable-validation")
