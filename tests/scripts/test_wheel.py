"""The package as ``pip install .`` leaves it: built as a wheel, put into a fresh environment, used without a checkout.

Nothing is fetched: fairseq is copied from the environment that runs the tests, and all other dependencies are found
there; but not this checkout, which is known there by an import hook that an added folder does not bring along.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import List, NamedTuple

import pytest
from commands import ROOT
from test_every_command import changed
from test_pages import blocks, commands

pytestmark = pytest.mark.slow  # builds, installs, and starts six processes that import fairseq anew


def done(words: List[object], **options: object) -> str:
    """The output of a command that must succeed."""
    found = subprocess.run(
        [*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **options
    )
    assert found.returncode == 0, f"{words}\n{found.stdout[-4000:]}"
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made from."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "lamemo_fairseq", folder / "lamemo_fairseq", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hydra_plugins", folder / "hydra_plugins", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "lamemo_command.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist"]
    done([sys.executable, "-m", "pip", "wheel", *flags, folder])
    (built,) = (folder / "dist").iterdir()
    return built


class Installed(NamedTuple):
    """A fresh environment with the wheel, and a folder to work in."""

    venv: Path
    work: Path

    def shell(self, line: str) -> str:
        """What a line of bash prints there."""
        path = os.pathsep.join([str(self.venv / "bin"), "/usr/bin", "/bin"])
        environment = {"PATH": path, "HOME": str(self.work), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        return done(["bash", "-o", "pipefail", "-c", line], cwd=self.work, env=environment)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The environment."""
    folder = tmp_path_factory.mktemp("fresh")
    venv, work = folder / "venv", folder / "work"
    work.mkdir()
    done([sys.executable, "-m", "venv", "--without-pip", venv])
    (site,) = venv.glob("lib/python3*/site-packages")
    # Other than the folder itself, a folder named in a .pth file has its own .pth files ignored: so the editable
    # installation of this checkout stays unknown.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    flags = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    done([sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", *flags, wheel])
    # Fairseq itself must be there, not only be found: it looks for --user-dir beside itself.
    for name in ("fairseq", "fairseq_cli"):
        shutil.copytree(Path(sysconfig.get_path("purelib"), name), site / name)
    for script in Path(sysconfig.get_path("scripts")).glob("fairseq-*"):  # fairseq's, for this interpreter
        text = re.sub(r"\A#!.*", f"#!{venv}/bin/python", script.read_text())
        (venv / "bin" / script.name).write_text(text)
        (venv / "bin" / script.name).chmod(0o755)
    return Installed(venv, work)


def test_everything_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    """Modules and data: each file of the folder, and the command beside it."""
    package = ROOT / "lamemo_fairseq"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name} | {
        "lamemo_command.py",
        "hydra_plugins/lamemo_presets.py",
    }
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "lamemo_fairseq/py.typed" in names and any(name.endswith("/LICENSE") for name in names)


def test_what_pip_reads(wheel: Path) -> None:
    """No requirement that pip's usual build cannot make, and the extras by name."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    extras = set(metadata.get_all("Provides-Extra"))
    assert {"fastbpe", "sentencepiece", "test", "dev"} <= extras
    plain = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("ve-fairseq") for line in plain) and not any("fastBPE" in line for line in plain)


def test_readme_s_commands_without_a_checkout(installed: Installed, corpus: Path) -> None:
    """Its own text is prepared, trained on and scored: ``--user-dir lamemo_fairseq``, far from any checkout."""
    for split in ("TRAIN", "VALID", "TEST"):
        text = (corpus.parent / f"{split.lower()}.txt").read_text(encoding="utf-8")
        (installed.work / f"{split}.txt").write_text(text.replace(" ", "").replace("_", " "), encoding="utf-8")
    where = installed.shell("python -c 'import lamemo_fairseq; print(lamemo_fairseq.__file__)'").splitlines()[-1]
    assert where.startswith(str(installed.venv))
    (block,) = (block for block in blocks(ROOT / "README.md") if "lamemo prepare text" in block)
    lines = [changed(line) for line in commands(block) if not line.startswith("source ")]
    assert [line.split()[0] for line in lines] == ["lamemo", "fairseq-train", "fairseq-eval-lm"]
    output = [installed.shell(line) for line in lines]
    assert "--user-dir lamemo_fairseq" in lines[1] and "done training" in output[1] and "targets scored" in output[2]
    assert (installed.work / "runs/mine/lamemo/checkpoint_best.pt").exists()


def test_user_dir_of_the_installed_package(installed: Installed) -> None:
    """What README names for all other cases; after the training above."""
    folder = installed.shell("lamemo user-dir").strip()
    assert folder.startswith(str(installed.venv)) and Path(folder, "__init__.py").exists()
    line = (
        "fairseq-eval-lm runs/mine/data-bin --user-dir $(lamemo user-dir) --task memory_language_modeling "
        "--path runs/mine/lamemo/checkpoint_best.pt --gen-subset valid --tokens-per-sample 64"
    )
    assert "targets scored" in installed.shell(line)
    said = installed.shell("lamemo generate runs/mine/lamemo --prompt 'The ' --max-tokens 10")
    assert said.splitlines()[-1].startswith("The ")


def test_hydra_finds_the_presets_without_a_checkout(installed: Installed) -> None:
    """The page's own command, by the preset's name alone; and one line for a variant that is none."""
    page = ROOT / "examples" / "shakespeare" / "README.md"
    (line,) = (one for block in blocks(page) for one in commands(block) if one.startswith("fairseq-hydra-train"))
    assert "--config-dir" not in line and "user_dir" not in line
    line = changed(line).replace("runs/shakespeare/data-bin", "runs/mine/data-bin")
    output = installed.shell(f"{line} +variant=compressive")
    assert "done training" in output and f"'user_dir': '{installed.venv.resolve()}" in output
    assert (installed.work / "runs/shakespeare/lamemo/checkpoint_best.pt").exists()
    said = installed.shell(f"! {line} +variant=lahmemo").splitlines()[-1]
    assert said.startswith("error: +variant=lahmemo is not known: choose of compressive, ")
