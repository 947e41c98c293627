"""The study and its page: the grid is run, resumed and told as it was; the page needs nothing but itself."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List

import corpus as texts
import prepare_python
import pytest
import study
import study_run
from conftest import ROOT

from lamemo_fairseq import compare, results
from lamemo_fairseq.errors import UsageError

BITS = {("lookahead", 1): 2.40, ("lookahead", 2): 2.50, ("recurrence", 1): 2.30, ("recurrence", 2): 2.32}


def write_run(folder: Path, condition: str, kind: str, seed: int, bits: float) -> Path:
    """What a finished run leaves, but for what was looked at."""
    run = folder / "runs" / "shakespeare" / (condition or "base") / kind / f"seed{seed}"
    run.mkdir(parents=True)
    row = {"corpus": "shakespeare", "condition": condition, "kind": kind, "seed": seed, "parameters": 1000 + seed}
    row.update(updates=40, seconds=7.0 * seed, valid_bits=bits + 0.1, test_bits=bits, revision="abc<def>")
    (run / "row.json").write_text(json.dumps(row))
    curve = [{"updates": u, "seconds": seed * u / 10, "bpc": bits + 10 / u} for u in (20, 40)]
    (run / "curve.json").write_text(json.dumps(curve))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a finished study of two kinds with two seeds leaves."""
    for (kind, seed), bits in BITS.items():
        run = write_run(tmp_path, "", kind, seed, bits)
        looks: List[Dict[str, Any]] = [{"attention": True, "mem_len": M, "loss_nats": 1 + 1 / (M + 1)} for M in (0, 8)]
        for look in looks:
            look["attention_by_distance"] = [None, 0.2, 0.1]
            refreshed = kind == "lookahead" and look["mem_len"]
            look["alpha_by_layer"] = [0.5 + seed / 10] if refreshed else []
            look["alpha_histogram_by_layer"] = [[0.25, *[0.0] * 18, 0.75], []] if refreshed else [[], []]
        (run / "look.json").write_text(json.dumps(looks))
    study.finish(study.parse([str(tmp_path), "--report", str(tmp_path / "report.html")]))
    return tmp_path


def test_one_row_per_run(folder: Path) -> None:
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["kind"], int(row["seed"])): float(row["test_bits"]) for row in rows} == BITS
    wanted = {"corpus", "kind", "seed", "parameters", "updates", "seconds", "valid_bits", "test_bits", "revision"}
    assert wanted < rows[0].keys()


def test_mean_and_spread(folder: Path) -> None:
    table = (folder / "table.md").read_text().splitlines()
    assert table[0] == "## Results" and "recurrence" in table[4]  # best first
    assert "2.4500 ± 0.0707" in table[5] and "2.3100 ± 0.0141" in table[4]
    assert compare.in_words(2.5, 0.0, 1) == "2.5000"  # one seed has no spread


def test_kinds_against_recurrence(folder: Path) -> None:
    # By seed 0.10 and 0.18; medians of 7 and 14 seconds.
    [line] = [line for line in (folder / "table.md").read_text().splitlines() if "+0." in line]
    assert line == "| shakespeare |  | lookahead | +0.1400 ± 0.0566 | 10 : 10 | behind throughout | behind throughout |"


def test_how_often_alpha_is_near_its_ends(folder: Path) -> None:
    with open(folder / "alpha.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["length"], row["layer"], row["mean"]) for row in rows] == [
        *(("1", "8", "1", "0.6"), ("2", "8", "1", "0.7"))
    ]
    assert "| shakespeare |  | lookahead | 8 | 0.65 (25.0%, 75.0%) |" in (folder / "table.md").read_text()


CURVES = {
    "ahead throughout": ([(0, 1), (10, 0)], [(0, 2), (10, 1)]),
    "behind throughout": ([(0, 2), (10, 1)], [(0, 1), (10, 0)]),
    "ahead from 5 on": ([(0, 2), (10, 0)], [(0, 1), (10, 1)]),
    "behind from 15 on": ([(0, 0), (20, 2)], [(10, 1.5), (20, 1.5), (40, 0)]),
    "level": ([(0, 2), (10, 1)], [(0, 2), (10, 1)]),
    "ahead throughout ": ([(0, 1), (5, 1), (10, 1)], [(0, 2), (5, 1), (10, 2)]),  # touching is no crossing
    "crosses at 5, 15; behind at the end": ([(0, 2), (10, 0), (20, 2)], [(0, 1), (20, 1)]),
    "nowhere comparable": ([(0, 2), (10, 0)], [(20, 1), (40, 1)]),
}


@pytest.mark.parametrize("found", sorted(CURVES))
def test_where_curves_cross(found: str) -> None:
    assert compare.crossings(*CURVES[found]) == found.strip()


def test_seeds_meet_where_all_of_them_were_validated() -> None:
    """A run that was stopped has a validation more, which must not shift the others."""
    curves = {"1": [(20, 4.0), (40, 3.0)], "2": [(13, 9.0), (20, 5.0), (40, 4.0)]}
    rows = [{"seed": seed, "updates": str(u), "bpc": str(b)} for seed, points in curves.items() for u, b in points]
    assert compare.mean_curve(rows, "updates") == [(20, 4.5), (40, 3.5)]


def test_figures(folder: Path) -> None:
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {f"shakespeare-{what}" for what in ("updates", "seconds", "memory", "attention")}
    before = {path.name: path.read_text() for path in folder.glob("*.svg")}
    assert results.Study.read(folder).figures() == {name[:-4]: text for name, text in before.items()}
    assert all("lookahead" in text and "recurrence" in text for text in before.values())


def test_conditions_side_by_side(folder: Path) -> None:
    """A dot for each corpus and condition in which a kind and recurrence were trained with the same seed."""
    for condition, kinds in (("lr=0.1", ("lookahead", "recurrence")), ("lr=0.2", ("lookahead", "continuous"))):
        for kind in kinds:
            write_run(folder, condition, kind, 1, 2.0)
    study.finish(study.parse([str(folder)]))
    picture = (folder / "conditions-lookahead.svg").read_text()
    assert ">shakespeare<" in picture and ">shakespeare lr=0.1<" in picture and "lr=0.2" not in picture
    assert not (folder / "conditions-continuous.svg").exists()


class Parts(HTMLParser):
    """What a page asks for, and the names in it."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: List[str] = []
        self.names: List[str] = []
        self.open: List[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        values: Dict[str, str] = dict(attributes)
        self.names += [values["id"]] if "id" in values else []
        self.asks += [values[name] for name in ("src", "href", "xlink:href", "data") if name in values]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    parts = Parts()
    parts.feed(page)
    assert not parts.open
    assert len(parts.names) == len(set(parts.names)) > 50
    for ask in parts.asks:
        assert ask == "data:," or (ask.startswith("#") and ask[1:] in parts.names), ask
    assert "<script" not in page and "url(http" not in page and "@import" not in page
    assert "abc&lt;def&gt;" in page and page.count("<svg") == 4


# Starts a browser, which the machine has only if its packages chromium and chromium-driver are installed.
@pytest.mark.slow
def test_the_page_opens_in_a_browser(folder: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium chromium-driver")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        + ["--enable-logging=stderr", "--virtual-time-budget=2000", "--window-size=1000,1600"]
        + [f"--user-data-dir={folder / 'profile'}", "--dump-dom", (folder / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "<h2>Results</h2>" in done.stdout and done.stdout.count("</svg>") == 4
    assert not re.findall(r".*(?:CONSOLE|ERR_[A-Z_]+).*", done.stderr)


def test_a_folder_that_is_neither_study_nor_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results.csv and no checkpoint_last.pt"):
        results.write_page(tmp_path, tmp_path / "report.html")


def test_a_training_directory_on_a_page(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path)
    valid = {"valid_num_updates": "20", "valid_bpc": "3.5"}
    (tmp_path / "train.log").write_text(f"x | valid | {json.dumps(valid)}\n")
    results.write_page(tmp_path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "model.memory_type" in page and "3.5000" in page
    sample = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert len(sample) == 1 and len(sample[0]) > 300


def test_a_curve_survives_a_restart() -> None:
    lines = [
        'a | INFO | train_inner | {"num_updates": "20", "train_wall": "3"}',
        'a | INFO | valid | {"valid_num_updates": "20", "valid_bpc": "3.5"}',
        'a | INFO | train_inner | {"num_updates": "30", "train_wall": "2"}',
        'a | INFO | train_inner | {"num_updates": "40", "train_wall": "9"}',
        'a | INFO | valid | {"valid_num_updates": "40", "valid_bpc": "9.9"}',
        "a | INFO | fairseq.trainer | Loaded checkpoint out/checkpoint_last.pt (epoch 1 @ 20 updates)",
        'a | INFO | train_inner | {"num_updates": "40", "train_wall": "4"}',
        'a | INFO | valid | {"valid_num_updates": "40", "valid_bpc": "3.0"}',
    ]
    assert results.read_curve("\n".join(lines)) == [
        {"updates": 20, "seconds": 3.0, "bpc": 3.5},
        {"updates": 40, "seconds": 7.0, "bpc": 3.0},
    ]


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
    found = prepare_python.standard_library(library)
    lines = {split: list(found.splits[split]) for split in texts.SPLITS}
    numbers = {split: {int(n) for n in re.findall(r"value = (\d+)", "\n".join(part))} for split, part in lines.items()}
    assert sum(map(len, numbers.values())) == len(set().union(*numbers.values())) == 200
    assert all(numbers.values()) and len(numbers["train"]) > 150
    assert all(len(lines[split]) == 4 * len(numbers[split]) for split in texts.SPLITS)
    with pytest.raises(texts.CorpusError, match="holds no modules"):
        prepare_python.standard_library(tmp_path / "lib" / "test")


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
    assert "seed 1" not in run()  # nothing is left to do
    assert (tmp_path / "report.html").read_text().count("<svg") == 4
    failed = subprocess.run(
        [*command, "--vary", "lr-scheduler=nonsense"], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert failed.returncode == 1 and re.search("^study: fairseq_cli.train failed .*nonsense", failed.stderr, re.M)
