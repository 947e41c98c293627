"""One entry point: every command has a line of help, its own help, and errors in one line."""

import re
import runpy
import subprocess
import sys
from types import ModuleType
from typing import List

import pytest
from commands import ROOT

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.cli import prepare
from lamemo_fairseq.core.errors import UsageError


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lamemo"])
    module: ModuleType = cli.module_of(command)
    assert module.HELP.endswith(".") and "\n" not in module.HELP
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0 and f"usage: lamemo {command}" in capsys.readouterr().out


def test_the_table_lists_them(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\s", said, re.MULTILINE) for command in cli.COMMANDS)
    assert {"prepare", "evaluate", "study", "report", "import", "export", "benchmark", "user-dir"} <= set(cli.COMMANDS)
    with pytest.raises(SystemExit) as end:
        cli.main(["prepair"])
    assert end.value.code == 2


def test_the_table_comes_without_importing_anything(capsys: pytest.CaptureFixture[str]) -> None:
    """What ``lamemo --help`` prints is what the package's own parser does."""
    code = "import sys, lamemo_command\nsys.argv = ['lamemo', '--help']\ncode = lamemo_command.main()\n"
    code += "assert not {'torch', 'fairseq', 'lamemo_fairseq'} & set(sys.modules)\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert done.stdout == capsys.readouterr().out


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UsageError("--dest is bad: choose another"), 1, "lamemo prepare: --dest is bad: choose another\n"),
        (KeyboardInterrupt(), 130, "lamemo prepare: interrupted\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr("sys.argv", ["lamemo"])
    monkeypatch.setattr(prepare, "run", fail)
    assert cli.main(["prepare", "python", "--dest", "x"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "old, new, missing",
    [
        (["scripts/import_checkpoint.py"], "lamemo import", ["--checkpoint", "/none", "--save-dir", "/none"]),
        (
            ["-m", "lamemo_fairseq.evaluate"],
            "lamemo evaluate",
            ["/data", "--path", "/none", "--results-path", "/results", "--cpu"],
        ),
    ],
)
def test_what_was_called_otherwise_says_what_is_new(old: List[str], new: str, missing: List[str]) -> None:
    done = subprocess.run([sys.executable, *old, *missing], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    told, problem = done.stderr.splitlines()
    assert told == f"{'python ' if old[0] == '-m' else ''}{' '.join(old)} is now: {new}"
    assert problem.startswith(f"{new}: ") and "/none" in problem


#: every spelling that pages named before there was ``lamemo``
DOCUMENTED = {
    "scripts/benchmark.py": "benchmark",
    "scripts/import_checkpoint.py": "import",
    "scripts/prepare_shakespeare.py": "prepare shakespeare",
    "scripts/prepare_text.py": "prepare text",
    "scripts/study.py": "study",
    "lamemo_fairseq.evaluate": "evaluate",
    "lamemo_fairseq.results": "report",
}


@pytest.mark.parametrize("old", DOCUMENTED)
def test_every_documented_old_spelling_works(
    old: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [old, "--help"])
    with pytest.raises(SystemExit) as end:
        if old.endswith(".py"):
            runpy.run_path(str(ROOT / old), run_name="__main__")
        else:
            runpy.run_module(old, run_name="__main__")
    said, told = capsys.readouterr()
    spelled = old if old.endswith(".py") else f"python -m {old}"
    assert end.value.code == 0 and f"usage: lamemo {DOCUMENTED[old]}" in said
    assert told == f"{spelled} is now: lamemo {DOCUMENTED[old]}\n"
