"""``examples/*/run.sh``: from an archive to a table; and the pages beside them, each command and each figure.

Fetching is replaced by the tiny archive of ``run.sh --smoke``, of the corpus's own layout, and models are as small.
"""

import csv
import math
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest
import torch
from commands import ROOT
from commands import shell as run_shell
from conftest import Told
from test_pages import blocks, commands, reason

from lamemo_fairseq.benchmark import paper
from lamemo_fairseq.core.compiled import cpp_compiler
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder
from lamemo_fairseq.plugin.presets import PRESETS, SIZES, VARIANTS, Preset
from lamemo_fairseq.study import recipe
from lamemo_fairseq.study.recipe_smoke import SMOKE_MODEL, SMOKE_PREPARE, members

PAGES: Dict[str, Path] = {
    "wikitext-103": ROOT / "examples" / "wikitext-103" / "README.md",
    "enwik8": ROOT / "examples" / "enwik8" / "README.md",
    "text8": ROOT / "examples" / "text8" / "README.md",
    "pg19": ROOT / "examples" / "pg19" / "README.md",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without anything that was made in it."""
    for name in ("lamemo_fairseq", "scripts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def shell(command: str, checkout: Path) -> str:
    """Runs a command there; its output."""
    # The limit is for a machine that is busy otherwise: what is bounded below are seconds of its processors.
    done = run_shell(command, checkout, timeout=1200, PYTHON=sys.executable)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    return done.stdout


def changed(command: str, corpus: str) -> str:
    """A page's command as it runs here: tiny models, and an archive in place of a download."""
    if command.startswith("bash examples/"):
        return f"bash examples/{corpus}/run.sh --smoke --dest runs/{corpus}"
    if command.startswith("fairseq-hydra-train "):
        return f"{command} {shlex.join(SMOKE_MODEL)} hydra.run.dir=$PWD/hydra"
    if command.startswith("lamemo prepare "):
        name = "books" if corpus == "pg19" else f"{corpus}.zip"
        flags = [*SMOKE_PREPARE.get(corpus, ()), "--unchecked", "--archive", f"runs/{corpus}/archive/{name}"]
        return f"{command} {' '.join(flags)}"
    if command.startswith("lamemo evaluate "):
        return f"{command} --cpu"
    return command


#: in each corpus's measure, less than what a model comes to that has learned nothing of the tiny archive, in which all
#: tokens are equally likely: 1,519 words, 99 bytes, 27 letters, 304 pieces, 3.9 of which are a word of the test text
UNTRAINED = {"wikitext-103": 1000, "enwik8": 6, "text8": 4.6, "pg19": 1e9}


def processor_seconds() -> float:
    """Of all processes that were started so far, together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow  # two trainings, six evaluations, then each command of the page: some three minutes for each corpus
@pytest.mark.parametrize("corpus", sorted(PAGES))
def test_from_an_archive_to_a_table(corpus: str, checkout: Path, told: Told) -> None:
    found = [command for block in blocks(PAGES[corpus]) for command in commands(block) if not reason(command)]
    assert found[0].startswith(f"bash examples/{corpus}/run.sh") and len(found) >= 7
    began = processor_seconds()
    shell(changed(found[0], corpus), checkout)
    seconds = processor_seconds() - began
    told(f"{corpus}: run.sh --smoke takes {seconds:.0f} seconds of one core")
    assert seconds < 120
    table = (checkout / "runs" / corpus / "table.md").read_text(encoding="utf-8")
    with open(PAGES[corpus].with_name("published.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, table.splitlines()[2:]):
        ours, trained = line.split("|")[-2].strip(), row["variant"] in ("lamemo", "transformer_xl")
        assert bool(re.fullmatch(r"\d+\.\d+", ours)) == trained, line
        assert not trained or float(ours) < UNTRAINED[corpus], line
    for command in found[1:]:
        shell(changed(command, corpus), checkout)


@pytest.mark.slow  # three trainings and five evaluations, then all of it again
def test_other_memories_and_nothing_twice(checkout: Path) -> None:
    variants = ("compressive", "infinity_former", "no_memory")  # whose evaluation differs from that of the two above
    command = f"bash examples/text8/run.sh --smoke --size small --variants {','.join(variants)} model.dropout=0.2"
    first = shell(command, checkout)
    table = (checkout / "runs/text8-smoke/table.md").read_text(encoding="utf-8")
    assert table in first and "| ours (smoke model.dropout=0.2) |" in table
    for row, line in zip(recipe.published("text8"), table.splitlines()[2:]):
        assert bool(re.search(r"\d \|$", line)) == (row["variant"] in variants), line
    second = shell(command, checkout)
    assert second.count("is trained already") == len(variants) and "fairseq-hydra-train" not in second
    assert table in second and "targets scored" not in second and "writing the texts" not in second


def problem(capsys: pytest.CaptureFixture, *words: str) -> str:
    """The one line of a command that is wrong."""
    with pytest.raises(SystemExit) as end:
        recipe.parse(words)
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("run.sh: ") and err.count("\n") == 1
    return err


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "--variants lamemo,lahmemo" not in problem(capsys, "enwik8", "--variants", "lamemo,lahmemo")
    assert "choose of lamemo, lamemo_v2" in problem(capsys, "enwik8", "--variants", "lahmemo")
    assert "--size base is not known for pg19: choose of small" in problem(capsys, "pg19", "--size", "base")
    assert "fast is no override" in problem(capsys, "text8", "fast")
    assert "--fast" in problem(capsys, "text8", "--fast")
    assert "--archive x goes without --smoke" in problem(capsys, "text8", "--smoke", "--archive", "x")
    assert "--unchecked" in problem(capsys, "text8", "--unchecked")
    words = ["enwik8", "common.seed=2", "--dest", str(tmp_path), "optimization.max_update=7"]
    with pytest.raises(SystemExit):
        recipe.Recipe(recipe.parse([*words, "--dest", str(tmp_path / "a,b")]))
    assert re.fullmatch(r"run.sh: .*a,b has one of .*\n", capsys.readouterr().err)
    options = recipe.parse(words)  # overrides between flags
    assert options.overrides == ["common.seed=2", "optimization.max_update=7"]
    folder = tmp_path / "lamemo_enwik8_base"
    folder.mkdir()
    (folder / "asked.json").write_text("something else")
    with pytest.raises(SystemExit):
        recipe.Recipe(options).train(Preset("lamemo", "enwik8_base"))
    assert re.fullmatch(r"run.sh: .* was begun with something else, not .*--dest\n", capsys.readouterr().err)


def test_without_an_environment_or_books(tmp_path: Path) -> None:
    script = str(ROOT / "examples" / "pg19" / "run.sh")
    nowhere = {**os.environ, "PYTHON": str(tmp_path / "python")}
    done = subprocess.run(["bash", script], env=nowhere, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "scripts/bootstrap.sh" in done.stderr
    # Nobody listens there: nothing is fetched.
    here = {**os.environ, "PYTHON": sys.executable, "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    done = subprocess.run(["bash", script], env=here, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "gsutil" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith(("lamemo", "run.sh"))] == [
        done.stderr.splitlines()[-1]
    ]
    assert list(tmp_path.iterdir()) == []


def test_pg19_is_measured_per_word(tmp_path: Path) -> None:
    made = recipe.Recipe(recipe.parse(["pg19", "--dest", str(tmp_path)]))
    made.data.mkdir()
    (made.data / "corpus.json").write_text(
        '{"splits": {"test": {"lines": 1, "words": 5, "characters": 30, "bytes": 30}}}'
    )
    assert made.measure({"loss_nats": math.log(2), "scored": 10}, "test") == pytest.approx(4)
    made.corpus = "enwik8"
    assert made.measure({"loss_nats": math.log(2), "scored": 10}, "test") == pytest.approx(1)
    made.corpus = "wikitext-103"
    assert made.measure({"loss_nats": math.log(2), "scored": 10}, "test") == pytest.approx(2)


@pytest.mark.parametrize("corpus", sorted(PAGES))
def test_the_page_shows_published_numbers_and_flags(corpus: str) -> None:
    """The table with our column empty, the commands' flags per row, and the training's values."""
    page = PAGES[corpus].read_text(encoding="utf-8")
    assert recipe.table(corpus, {}) in page
    made = recipe.Recipe(recipe.parse([corpus, "--variants", ",".join(VARIANTS)]))
    rows = [line for line in page.splitlines() if line.startswith("| `") and "_lm_" not in line]
    for preset in made.presets:
        [row] = [row for row in rows if f"`{preset.variant}`" in row.split("|")[1]]
        flags = shlex.join(map(str, made.longer(preset)))
        assert (flags if flags else "it has none") in row.split("|")[3]
        assert f"`--tokens-per-sample {made.tokens}`" in row or "the same" in row
    for size in (size for size, what in SIZES.items() if what.example == corpus):
        assert f"lamemo_{size}" in page and f"{SIZES[size].training.max_update:,} updates" in page


def test_published_numbers_of_wikitext103() -> None:
    found = [row["published"] for row in recipe.published("wikitext-103") if row["published"]]
    expected = "24.0 24.25 23.68 24.12 23.70 23.24 29.14 24.56 24.41 24.22 23.77 22.98 23.99".split()
    assert [one.split()[0] for one in found] == expected
    assert all(row["source"] for row in recipe.published("wikitext-103") if row["published"])


#: TFLOP/s and TB/s of the two cards that the pages reckon with, and bytes of Adam for each parameter
RATES = {"bfloat16": ((700, 3.0), (60, 0.8), 16), "float32": ((50, 3.0), (25, 0.8), 8)}


@pytest.mark.parametrize("corpus", sorted(PAGES))
def test_arithmetic_of_time_and_memory(corpus: str) -> None:
    """Each row follows from its counts; tests/benchmark holds the counts of the paper's sizes."""
    lines = PAGES[corpus].read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if "_lm_" in line and "|" in line]
    assert len(rows) >= 2
    for cells in ([cell.strip() for cell in row] for row in rows):
        preset, kind = PRESETS[cells[0].strip("`")], cells[1]
        parameters, tflop, gib, peak = (float(cell.replace(",", "")) for cell in cells[2:6])
        *cards, adam = RATES[kind]
        expected: List[str] = []
        for tera_operations, tera_bytes in cards:
            ms = (tflop / tera_operations + gib * 2**30 / tera_bytes / 1e12) * 1e3
            expected += [f"{ms:.0f}", f"{ms * preset.training.max_update / 3.6e6:.1f}"]
        assert cells[6:10] == expected, cells
        assert cells[10] == f"{peak + parameters * adam / 2**30:.1f}"


@pytest.mark.slow  # builds the pages' models and counts their steps, some ten seconds each
@pytest.mark.skipif(cpp_compiler() is None, reason="fake CUDA tensors need a C++ compiler")
@pytest.mark.parametrize("corpus", sorted(PAGES))
def test_counts_of_the_first_row(corpus: str) -> None:
    """The pages' counts are of this program: those of its first row within 2 %, versions of torch aside."""
    first = next(
        line for line in PAGES[corpus].read_text(encoding="utf-8").splitlines() if line.startswith("| `lamemo_lm")
    )
    name, dtype, parameters, *counts = (cell.strip(" `") for cell in first.strip("|").split("|"))
    assert name.startswith("lamemo_lm_") and dtype == "bfloat16"
    step = paper.count(name, "lookahead", dtype)["step"]
    found = (step["tflop"], step["bytes"] / 2**30, step["peak"] / 2**30)
    assert found == pytest.approx([float(count) for count in counts[:3]], rel=0.02)
    preset = PRESETS[name]
    with torch.device("meta"):
        symbols = paper.Symbols(SIZES[preset.size].vocabulary)
        decoder = LaMemoDecoder(LaMemoConfig(**preset.model), symbols, preset.training.tokens_per_sample)
    assert f"{sum(parameter.numel() for parameter in decoder.parameters()):,}" == parameters


def test_tiny_archives_have_the_corpus_layout() -> None:
    assert set(members("pg19")) == {"train/1.txt", "validation/1.txt", "test/1.txt"}
    assert set(members("wikitext-103")) == {f"wikitext-103/wiki.{split}.tokens" for split in ("train", "valid", "test")}
    assert set(members("text8")["text8"]) == set("abcdefghijklmnopqrstuvwxyz ")
