"""Training curves: from every log that fairseq writes, and over restarts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest
from conftest import ROOT, TINY, run

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.study import curves
from lamemo_fairseq.study import records as results


def test_a_folder_that_is_neither_study_nor_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results.csv and no checkpoint_last.pt"):
        results.write_page(tmp_path, tmp_path / "report.html")


def page_of(folder: Path) -> str:
    results.write_page(folder, folder / "report.html")
    return (folder / "report.html").read_text()


def test_a_training_directory_without_logs_says_what_makes_one(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path)
    page = page_of(tmp_path)
    assert all(flag in page for flag in ("--log-file", "--csv-log", "--tensorboard-logdir")) and "<svg" not in page
    assert "model.memory_type" in page
    sample = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert len(sample) == 1 and len(sample[0]) > 300


BRIEF = ["--max-update", 4, "--validate-interval-updates", 2, "--max-valid-steps", 2]


def test_every_log_that_fairseq_writes_is_a_curve(corpus: Path, tmp_path: Path) -> None:
    """The same two validations from each; fairseq rounds what it writes as text."""
    found: Dict[str, List[curves.Point]] = {}
    for form in ("simple", "json"):
        folder = tmp_path / form
        folder.mkdir()
        kept = ["--log-file", folder / "kept.log", "--csv-log", folder / "log.csv"]
        done = run("train", corpus, *TINY, *BRIEF, "--save-dir", folder, "--log-format", form, *kept)
        (folder / "train.log").write_text(done.stdout)
        found.update({f"{form}/{name}": points for name, points in curves.find(folder)})
    assert set(found) == {f"{form}/{n}" for form in ("simple", "json") for n in ("train.log", "kept.log", "log.csv")}
    for name, points in found.items():
        assert [point["updates"] for point in points] == [2, 4], name
        wanted = pytest.approx([point["bpc"] for point in found["simple/log.csv"]], abs=1e-3)
        assert [point["bpc"] for point in points] == wanted
    assert page_of(tmp_path / "simple").count("<svg") == 3


# Starts fairseq-train itself: forked commands end before tensorboard's writer has written everything.
@pytest.mark.slow
def test_tensorboards_event_files_and_progress_bars_are_curves(corpus: Path, tmp_path: Path) -> None:
    flags = [*TINY, *BRIEF, "--save-dir", tmp_path, "--csv-log", tmp_path / "log.csv", "--tensorboard-logdir", tmp_path]
    flags += ["--log-format", "tqdm"]
    command = [Path(sys.executable).with_name("fairseq-train"), corpus, "--user-dir", ROOT / "lamemo_fairseq", *flags]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    (tmp_path / "train.log").write_text(done.stdout + done.stderr)
    found = dict(curves.find(tmp_path))
    assert set(found) == {"log.csv", "valid", "train.log"} and {len(points) for points in found.values()} == {2}
    assert [p["bpc"] for p in found["valid"]] == pytest.approx([p["bpc"] for p in found["log.csv"]], abs=1e-5)


def test_a_curve_survives_a_restart() -> None:
    lines = [
        'a | INFO | train_inner | {"num_updates": "20", "train_wall": "3"}',
        'a | INFO | valid | {"valid_num_updates": "20", "valid_bits_per_token": "3.5"}',
        'a | INFO | train_inner | {"num_updates": "30", "train_wall": "2"}',
        'a | INFO | train_inner | {"num_updates": "40", "train_wall": "9"}',
        'a | INFO | valid | {"valid_num_updates": "40", "valid_bpc": "9.9"}',
        "a | INFO | fairseq.trainer | Loaded checkpoint out/checkpoint_last.pt (epoch 1 @ 20 updates)",
        'a | INFO | train_inner | {"num_updates": "40", "train_wall": "4"}',
        'a | INFO | valid | {"valid_num_updates": "40", "valid_bpc": "3.0"}',
    ]
    assert curves.read_log("\n".join(lines)) == [
        {"updates": 20, "seconds": 3.0, "bpc": 3.5},
        {"updates": 40, "seconds": 7.0, "bpc": 3.0},
    ]


def test_seconds_are_told_where_training_was_logged_alone(checkpoint: Path, tmp_path: Path) -> None:
    """With --log-interval above the updates of a run no line says how long it took: that is no 0."""
    line = "2026 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 4 | bits_per_token 4.5 | num_updates 6\n"
    (tmp_path / "train.log").write_text(line)
    shutil.copy(checkpoint, tmp_path)
    assert re.search(r"<td[^>]*>6</td>\s*<td[^>]*>not logged</td>\s*<td[^>]*>4.5000</td>", page_of(tmp_path))


def test_the_curve_of_training_goes_on_after_a_restart() -> None:
    values = '{{"num_updates": "{}", "bpc": "{}", "wps": "9", "wall": "{}", "train_wall": "1"}}'
    line = f"2026 | INFO | train_inner | {values}\n"
    log = line.format(20, 3.5, 4) + "noise\n" + line.format(40, 3.25, 9) + line.format(60, 3, 2)
    assert [(point["update"], point["wall"]) for point in curves.read_training(log)] == [(20, 4), (40, 9), (60, 11)]
