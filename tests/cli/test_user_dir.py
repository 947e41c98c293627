"""``lamemo user-dir``: the package as fairseq's commands want it named, wherever they are started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from lamemo_fairseq.cli.main import main


def test_only_the_directory_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["user-dir"]) == 0
    assert capsys.readouterr().out == f"{ROOT / 'lamemo_fairseq'}\n"
    with pytest.raises(SystemExit):
        main(["userdir"])


@pytest.mark.slow  # two processes that import fairseq anew
def test_fairseq_finds_the_plugin_from_anywhere(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    line = (
        f"fairseq-eval-lm {corpus} --user-dir $(python -m lamemo_fairseq user-dir) --task memory_language_modeling "
        f"--path {checkpoint} --gen-subset valid --tokens-per-sample 16"
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "targets scored" in done.stdout + done.stderr
