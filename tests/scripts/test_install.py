"""What is installed where, and what scripts/bootstrap.sh does, without installing anything."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "scripts/requirements.lock").read_text().splitlines()


def machine(version: str, platform: str = "linux", processor: str = "x86_64") -> dict[str, str]:
    return {
        "python_version": version,
        "python_full_version": f"{version}.1",
        "sys_platform": platform,
        "platform_machine": processor,
        "extra": "",
    }


FAIRSEQ_FOR = [
    (machine("3.9"), "fairseq==0.12.2"),
    (machine("3.10"), "fairseq==0.12.2"),
    (machine("3.10", "darwin", "arm64"), "fairseq==0.12.2"),
    (machine("3.11"), "ve-fairseq==0.12.3"),
    (machine("3.12"), "ve-fairseq==0.12.3"),
    (machine("3.11", "linux", "aarch64"), "fairseq-fixed==0.12.3.1"),
    (machine("3.11", "darwin", "x86_64"), "fairseq-fixed==0.12.3.1"),
    (machine("3.12", "darwin", "arm64"), "fairseq-fixed==0.12.3.1"),
]


def requirements_of_setup(monkeypatch: pytest.MonkeyPatch) -> list[Requirement]:
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: given.update(keywords))
    runpy.run_path(str(ROOT / "setup.py"))
    lines = given["install_requires"] + sum(given["extras_require"].values(), [])
    return [Requirement(line) for line in lines]


def wanted(requirements: list[Requirement], environment: dict[str, str]) -> list[Requirement]:
    return [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]


def pins() -> list[Requirement]:
    return [Requirement(line) for line in LOCK if line and not line.startswith("#")]


@pytest.mark.parametrize("environment, fairseq", FAIRSEQ_FOR)
def test_setup_chooses_the_fairseq_that_runs(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], fairseq: str
) -> None:
    chosen = wanted(requirements_of_setup(monkeypatch), environment)
    assert [f"{r.name}{r.specifier}" for r in chosen if "fairseq" in r.name] == [fairseq]


@pytest.mark.parametrize("environment, fairseq", FAIRSEQ_FOR[1:])
def test_lock_serves_setup(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], fairseq: str) -> None:
    """Each package once, in a version that setup.py and its extras accept."""
    chosen = wanted(pins(), environment)
    versions = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}
    assert len(versions) == len(chosen)
    name, version = fairseq.split("==")
    assert versions[name] == version
    for requirement in wanted(requirements_of_setup(monkeypatch), environment):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_lock_pins_everything_exactly() -> None:
    for pin in pins():
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), f"{pin} is no exact version"


# Stands in for an interpreter: it runs code, but makes an environment of copies of itself, writes
# down what pip was asked for, and fails for what FAIL names.
FAKE_PYTHON = f"""#!/bin/bash
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    touch "$3/pyvenv.cfg" ;;
"-m pip")
    [ "$3" = --version ] && exit 0
    echo "${{*:3}}" >>pip-calls
    if [ -n "$KILL" ] && [[ "$*" == *"$KILL"* ]]; then kill -9 $PPID; exit 1; fi
    for word in $FAIL; do
        if [[ " $* " == *"$word "* ]]; then echo "ERROR: no $word here"; exit 1; fi
    done ;;
"-c from importlib"*) exit 1 ;;  # no torch yet
*) exec "{sys.executable}" "$@" ;;
esac
"""


class Checkout:
    """The files that bootstrap.sh needs, in a folder of their own, and tools made up around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        (root / "scripts").mkdir()
        self.bin.mkdir()
        for name in ("setup.py", "scripts/bootstrap.sh", "scripts/requirements.lock"):
            shutil.copy(ROOT / name, root / name)
        self.tool("fake-python", FAKE_PYTHON)
        self.tool("uname", '#!/bin/sh\n[ "$1" = -m ] && echo x86_64 || echo Linux\n')
        self.tool("nvidia-smi", "#!/bin/sh\nexit 1\n")
        self.tool("c++", "#!/bin/sh\n")

    def tool(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def bootstrap(self, **environment: str) -> subprocess.CompletedProcess:
        (self.root / "pip-calls").unlink(missing_ok=True)
        given = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHON": "fake-python",
            "KILL": "",
            "FAIL": "",
            **environment,
        }
        command = ["bash", str(self.root / "scripts/bootstrap.sh")]
        return subprocess.run(command, env=given, capture_output=True, text=True)

    def pip_calls(self) -> list[str]:
        path = self.root / "pip-calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_second_bootstrap_does_nothing(checkout: Checkout) -> None:
    first = checkout.bootstrap()
    assert first.returncode == 0, first.stderr
    calls = checkout.pip_calls()
    assert any("--editable ." in call for call in calls)
    assert any("--no-build-isolation" in call and "fastBPE" in call for call in calls)
    for environment in ({}, {"PYTHON": ""}):
        second = checkout.bootstrap(**environment)
        assert second.returncode == 0
        assert "nothing to do" in second.stdout
        assert checkout.pip_calls() == []


@pytest.mark.parametrize("name", ["setup.py", "scripts/requirements.lock"])
def test_bootstrap_follows_changes(checkout: Checkout, name: str) -> None:
    checkout.bootstrap()
    with open(checkout.root / name, "a") as file:
        file.write("# changed\n")
    run = checkout.bootstrap()
    assert "bringing .venv up to date" in run.stdout
    assert checkout.pip_calls() != []
    assert "nothing to do" in checkout.bootstrap().stdout


def test_bootstrap_recovers_from_being_killed(checkout: Checkout) -> None:
    assert checkout.bootstrap(KILL="isolated.txt").returncode != 0
    (checkout.root / ".venv/half-a-package").touch()
    run = checkout.bootstrap()
    assert run.returncode == 0, run.stderr
    assert not (checkout.root / ".venv/half-a-package").exists()
    assert "nothing to do" in checkout.bootstrap().stdout


def torch_calls(checkout: Checkout) -> list[str]:
    return [call for call in checkout.pip_calls() if " torch==" in call]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the versions are those of 3.11")
def test_bootstrap_prefers_the_cpu_build(checkout: Checkout) -> None:
    run = checkout.bootstrap(FAIL="+cpu")
    first, second, third = torch_calls(checkout)
    assert first.endswith("+cpu") and "--index-url" not in first
    assert second.endswith("+cpu") and "https://download.pytorch.org/whl/cpu" in second
    assert third.endswith("--constraint scripts/requirements.lock torch==2.13.0")
    assert "gigabytes" in run.stdout


def test_bootstrap_takes_the_plain_build_where_it_should(checkout: Checkout) -> None:
    checkout.tool("nvidia-smi", "#!/bin/sh\n")
    checkout.bootstrap()
    assert len(torch_calls(checkout)) == 1 and "+cpu" not in torch_calls(checkout)[0]


def test_bootstrap_says_what_is_missing(checkout: Checkout) -> None:
    def refusal(**environment: str) -> str:
        run = checkout.bootstrap(**environment)
        assert run.returncode == 1
        assert run.stderr.count("\n") == 1
        return run.stderr

    assert "PYTHON=nowhere does not run" in refusal(PYTHON="nowhere")
    for name in ("python3.10", "python3.11", "python3.12"):
        checkout.tool(name, "#!/bin/sh\nexit 127\n")
    assert "install one" in refusal(PYTHON="")
    checkout.tool("python3.9", "#!/bin/sh\necho 3.9.18\n")
    assert "python3.9 is Python 3.9.18" in refusal(PYTHON="python3.9")
    (checkout.root / ".venv").mkdir()
    assert ".venv exists and is not a Python environment" in refusal()
    (checkout.root / ".venv").rmdir()
    assert "no --editable here; see .venv/bootstrap.log" in refusal(FAIL="--editable")


def test_bootstrap_goes_on_without_fastbpe(checkout: Checkout) -> None:
    run = checkout.bootstrap(FAIL="fastBPE==0.1.0")
    assert run.returncode == 0
    assert "only --bpe fastbpe and lamemo prepare --bpe need it" in run.stdout
