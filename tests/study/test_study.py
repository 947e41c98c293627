"""The study: what is asked for, what is equal among kinds, and a grid that is run and resumed."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from conftest import run as run_command

from lamemo_fairseq.cli.main import main as lamemo
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.prepare import corpus as texts
from lamemo_fairseq.data.prepare import python_source
from lamemo_fairseq.study import grid as study
from lamemo_fairseq.study import run as study_run
from lamemo_fairseq.study.page import Page
from lamemo_fairseq.study.sample import open_checkpoint, sample


def options(tmp_path: Path, *flags: str) -> Any:
    return study.parse([str(tmp_path), "--corpora", "topics", *flags])


WRONG = {
    "corpus": (("--corpora", "novels"), "--corpora novels is not known"),
    "kind": (("--kinds", "elephant"), "--kinds elephant is not known"),
    "seeds": (("--seeds", "one"), "--seeds one is no list of whole numbers"),
    "no seeds": (("--seeds", ""), "--seeds names none"),
    "condition": (("--vary", "lr"), "--vary lr says no values"),
    "no values": (("--vary", "lr=,"), "--vary lr=, says no values"),
    "a value twice": (("--vary", "lr=1,1"), "--vary 1,1 names something twice"),
    "a flag twice": (("--vary", "lr=1", "--vary", "lr=2"), "--vary lr=2 varies what is set already"),
    "the study's own": (("--vary", "max-update=9"), "--vary max-update=9 varies what is set already"),
    "a path": (("--vary", "init=a/b"), "--vary init=a/b cannot name a folder"),
    "a seed twice": (("--seeds", "1,1"), "--seeds 1,1 names something twice"),
    "updates": (("--updates", "0"), "--updates 0 is too small"),
    "memory": (("--memory", "0"), "--memory 0 is too small"),
    "jobs": (("--jobs", "0"), "--jobs 0 leaves nobody to work"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_flags(case: str, tmp_path: Path) -> None:
    flags, line = WRONG[case]
    with pytest.raises(study.StudyError, match=re.escape(line)):
        study.study(options(tmp_path, *flags))
    assert not list(tmp_path.iterdir())


def test_several_dimensions() -> None:
    found = study.conditions(["memory=8,16", "--lr=0.1"])
    assert found == [(("memory", "8"), ("lr", "0.1")), (("memory", "16"), ("lr", "0.1"))]
    assert study.conditions([]) == [()]


def test_the_configuration_is_that_of_the_runs(tmp_path: Path) -> None:
    chosen = options(tmp_path, "--updates", "20", "--vary", "memory=8,16", "--vary", "lr=0.1")
    found = study.configuration(study_run.SETTINGS["cpu"], chosen, study.conditions(chosen.vary))
    assert (found["updates"], found["memory"], found["lr"]) == ("20", "8, 16 (varied)", "0.1 (varied)")
    assert found["tokens"] == "64"  # the setting's


def test_the_command_is_told_with_what_is_not_usual(tmp_path: Path) -> None:
    flags = ["--updates", "20", "--vary", "memory=8,16", "--vary", "lr=0.1"]
    found = study.command_line(study.parse([str(tmp_path), *flags]))
    assert found == f"lamemo study {tmp_path} {' '.join(flags)}"


def test_a_folder_keeps_its_sizes(tmp_path: Path) -> None:
    """A run of other sizes under the same name would be taken for finished."""

    def run(*flags: str) -> study_run.Run:
        return study_run.Run(options(tmp_path, *flags), study_run.SETTINGS["tiny"], "none", 1, "topics", ())

    first = run()
    first.check()  # nothing is there
    first.folder.mkdir(parents=True)
    (first.folder / "checkpoint_last.pt").touch()
    with pytest.raises(study_run.StudyError, match="does not say how it was begun"):
        first.check()
    (first.folder / "asked.json").write_text(json.dumps(first.asked()))
    first.check()
    with pytest.raises(study_run.StudyError, match="was begun with updates 20, not 21: choose another folder"):
        run("--updates", "21").check()


@pytest.mark.parametrize("value", ["0.1", "-1", "absolute"])
def test_values_of_a_models_flags_are_what_they_look_like(value: str, tmp_path: Path) -> None:
    flag = {"0.1": "dropout", "-1": "clamp-len", "absolute": "position-encoding"}[value]
    run = study_run.Run(options(tmp_path), study_run.SETTINGS["tiny"], "none", 1, "topics", ((flag, value),))
    assert str(getattr(run.model("none"), flag.replace("-", "_"))) == value
    assert run.width() > 0


@pytest.mark.parametrize("setting", sorted(study_run.SETTINGS))
@pytest.mark.parametrize("memory", [None, 96])
def test_kinds_have_equally_many_parameters(setting: str, memory: Any, tmp_path: Path) -> None:
    chosen = options(tmp_path, "--setting", setting, *([] if memory is None else ["--memory", str(memory)]))
    runs = [study_run.Run(chosen, study_run.SETTINGS[setting], kind, 1, "topics", ()) for kind in study_run.KINDS]
    sizes = []
    for run in runs:
        cfg = run.model(run.kind)
        cfg.decoder_ffn_embed_dim = run.width()
        sizes.append(study_run.parameters(cfg, run.setting.tokens))
    assert max(sizes) < 1.005 * min(sizes)


def test_the_standard_library_is_split_by_whole_files(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    for number in range(200):
        (library / "package").mkdir(parents=True, exist_ok=True)
        (library / "package" / f"module{number}.py").write_text(f"value = {number}\n\n\nother = '{number}'\n")
    for left_out in ("test/test_one.py", "package/tests/two.py", "site-packages/three.py"):
        (library / left_out).parent.mkdir(parents=True, exist_ok=True)
        (library / left_out).write_text("left out\n")
    (library / "latin.py").write_bytes(b"# \xe9\n")
    found = python_source.standard_library(library)
    lines = {split: list(found.splits[split]) for split in texts.SPLITS}
    numbers = {split: {int(n) for n in re.findall(r"value = (\d+)", "\n".join(part))} for split, part in lines.items()}
    assert sum(map(len, numbers.values())) == len(set().union(*numbers.values())) == 200
    assert all(numbers.values()) and len(numbers["train"]) > 150
    assert all(len(lines[split]) == 4 * len(numbers[split]) for split in texts.SPLITS)
    with pytest.raises(UsageError, match="holds no modules"):
        python_source.standard_library(tmp_path / "lib" / "test")


# Fourteen processes that import fairseq: the study is started four times, and trains and scores two models.
@pytest.mark.slow
def test_the_grid_is_run_and_resumed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "study.py"), str(tmp_path / "study"), "--setting", "tiny"]
    command += ["--seeds", "1", "--corpora", "topics", "--kinds", "continuous,lookahead", "--updates", "12"]
    command += ["--jobs", "2"]

    def run(*flags: str) -> str:
        done = subprocess.run(
            [*command, *flags], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "time is up" in run("--time-budget", "0")
    assert not (tmp_path / "study" / "results.csv").exists()
    first = run("--memory-lengths", "0,32", "--report", str(tmp_path / "report.html"))
    assert first.count("seed 1") == 2
    with open(tmp_path / "study" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["continuous", "lookahead"]
    assert all(3 < float(row["test_bits"]) < 8 for row in rows)
    with open(tmp_path / "study" / "alpha.csv", newline="") as file:
        assert [(row["kind"], row["layer"]) for row in csv.DictReader(file)] == [
            ("lookahead", str(n)) for n in (1, 2, 3)
        ]
    looks = json.loads((tmp_path / "study/runs/topics/base/lookahead/seed1/look.json").read_text())
    assert [(look["mem_len"], look["model_overrides"]) for look in looks] == [(M, "{'clamp_len': 64}") for M in (0, 32)]
    assert "seed 1" not in run()  # nothing is left to do
    assert (tmp_path / "report.html").read_text().count("<svg") == 4
    failed = subprocess.run(
        [*command, "--vary", "lr-scheduler=nonsense"], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert failed.returncode == 1 and re.search(
        "^lamemo study: fairseq_cli.train failed .*nonsense", failed.stderr, re.M
    )


def test_moses_is_undone_in_what_a_model_writes(tmp_path: Path) -> None:
    """A dictionary with ``&apos;s`` writes an apostrophe: the page shows the text that was meant."""
    text = "the cat isn't here , said the other 's friend & went\n" * 40
    (tmp_path / "text").write_text(text, encoding="utf-8")
    words = ["text", "--text", str(tmp_path / "text"), "--split", "80,10,10", "--dest", str(tmp_path / "c")]
    assert lamemo(["prepare", *words, "--words", "--moses", "en"]) == 0
    assert "&apos;t" in (tmp_path / "c/data-bin/dict.txt").read_text()
    run_command("train", tmp_path / "c/data-bin", *TINY, "--max-update", 2, "--save-dir", tmp_path / "run")
    shown = sample(open_checkpoint(tmp_path / "run/checkpoint_last.pt"), 60, seed=1)
    assert "'" in shown and "&apos;" not in shown and "&amp;" not in shown


def test_wide_tables_stay_on_the_page() -> None:
    """A table of runs is as wide as the page, and its words break."""
    page = Page("runs")
    page.table(["kind"] * 30, [["averylongkind" * 9] * 30])
    assert "table { border-collapse: collapse; font-size: 0.8rem; width: 100% }" in page.render()
    assert "overflow-wrap: anywhere" in page.render()
