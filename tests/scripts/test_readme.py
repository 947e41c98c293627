"""The README's first screen, what it names, and the quickstart; its other commands run in test_every_command.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from lamemo_fairseq import LaMemoLanguageModel

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_exist_and_ci_calls_the_second() -> None:
    first, second = re.findall(r"```\n(bash scripts/\w+\.sh)\n```", README)
    assert (ROOT / first.split()[1]).exists()
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_example_and_every_folder_is_named() -> None:
    """What a person may want to do leads to each page; the table of folders names each, with files that exist."""
    wanted = README.split("## What do you want to do?")[1].split("\n## ")[0]
    for page in (ROOT / "examples").glob("*/README.md"):
        assert str(page.relative_to(ROOT)) in wanted, page
    package = ROOT / "lamemo_fairseq"
    table = README.split("| folder of `lamemo_fairseq/` |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    named = {folder: row[-2] for row in rows for folder in re.findall(r"`(\w+)`", row[1])}
    assert set(named) == {init.parent.name for init in package.glob("*/__init__.py")}
    for row in rows:
        folders = re.findall(r"`(\w+)`", row[1])
        for name in re.findall(r"`([\w/]+\.py)`", row[-3] + row[-2]):
            assert any((package / folder / name).exists() for folder in folders), name


def test_what_commands_leave_is_ignored_by_git(tmp_path: Path) -> None:
    """Where nobody says otherwise: checkpoints, and what hydra makes; beside the folder that all pages write to."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    for made in ("checkpoints/checkpoint_last.pt", "outputs/2026-01-01/x", "multirun/2026-01-01/x", "runs/mine/x"):
        done = subprocess.run(["git", "check-ignore", "--quiet", made], cwd=tmp_path)
        assert done.returncode == 0, made


def test_version_and_changelog_agree() -> None:
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and cited and newest
    assert version[1] == cited[1] == newest[1]


@pytest.mark.slow  # trains two models and scores each twice
def test_quickstart_runs_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not the script's")

    def run() -> str:
        words = [sys.executable, ROOT / "scripts" / "quickstart.py", "--offline", "--max-update", "20"]
        done = subprocess.run(
            [*map(str, words), "--dest", str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    first = run()
    assert "documentation topics of Python" in first and "update    20 of 20" in first
    table = (tmp_path / "table.txt").read_text()
    assert table in first
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    model = tmp_path / "model"
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "source: documentation topics of Python" in card and "| updates | 20 |" in card
    assert re.search(r"\| valid bpc \| [\d.]+ \|\n\| test bpc \| [\d.]+ \|", card)
    lm = LaMemoLanguageModel.from_pretrained(str(model))
    written = lm.sample("the ", sampling=True, sampling_topp=0.9, temperature=0.8, max_len_b=300, seed=1)
    assert f"LaMemo goes on from 'the ':\n{written}" in first and f"generate {model} --prompt" in first
    second = run()
    assert "training" not in second.split("model  ")[0] and table in second
    assert (tmp_path / "mine.txt").read_text() == "not the script's"
