"""Memory kinds on a synthetic task of associative recall (``data/prepare/diagnostic.py``): updates until they solve it.

    lamemo diagnose runs/diagnostic --seeds 1,2,3 --jobs 2 --time-budget 60
    lamemo diagnose examples/study --report

Each run is a process of ``fairseq-train``, and a row of DEST/diagnostic.csv as soon as it has ended: ``solved`` (and
then stopped), ``unsolved`` after all updates, ``stopped`` when the time was up, or ``failed``. The last two are tried
again by the same command. ``curve`` holds the accuracy on the answers, a point every INTERVAL updates, in percent.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List

from ..core.errors import UsageError
from ..data.prepare import diagnostic as task
from .curves import record
from .kinds import KINDS
from .run import ROOT, numbers, revision

INTERVAL = 50  # updates between points
SOLVED = 90.0  # percent, at two successive points
TABLE = "diagnostic.csv"
DONE = ("solved", "unsolved")

#: what is compared where nobody names any: sight and gradient, each with and without the other
USUAL = ("lookahead", "refresh", "detached", "recurrence")


@dataclass(frozen=True)
class Condition:
    """What runs share but for kind and seed; each field is a flag of the command and a column of the table.

    Attributes:
        order: where labels stand, ``close`` or ``open``, or ``chain``.
        tokens: N, and M.
        rows: B, streams.
        items, labels, grow, longest: of the task.
        all_tokens: 1 trains every token, 0 the answers alone.
        layers: L.
        width: D; the feed-forward is four times as wide.
        lr: of Adam, falling linearly to 0.
        updates: of a run that does not solve the task.
    """

    order: str = "close"
    tokens: int = 32
    rows: int = 16
    items: int = 32
    labels: int = 8
    grow: int = 0
    longest: int = 6
    one_segment: int = 0
    all_tokens: int = 0
    layers: int = 2
    width: int = 64
    lr: float = 0.004
    updates: int = 4000

    def text(self, seed: int) -> task.Diagnostic:
        """The task's text."""
        names = ("tokens", "rows", "updates", "items", "labels", "order", "grow", "longest")
        asked = {name: getattr(self, name) for name in names}
        return task.Diagnostic(**asked, first=1, one_segment=bool(self.one_segment), seed=seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("dest", type=Path, help=f"folder of {TABLE}, made or continued")
    usual = ",".join(USUAL)
    parser.add_argument("--kinds", default=usual, help=f"of {', '.join(KINDS)} (default: {usual})")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="of weights and text (default: 1,2,3,4,5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="then stop")
    parser.add_argument("--report", action="store_true", help="train nothing: write the table and the figures of DEST")
    for name, default in asdict(Condition()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, default=str(default), help=f"one or several, joined by commas (default: {default})")


def conditions(options: argparse.Namespace) -> List[Condition]:
    """All combinations of what the flags list."""
    fields = asdict(Condition())
    try:
        values = [[type(default)(v) for v in getattr(options, name).split(",")] for name, default in fields.items()]
    except ValueError as error:
        raise UsageError(f"a flag's value is no number ({error}): join numbers by commas") from None
    return [Condition(*point) for point in itertools.product(*values)]


@dataclass(frozen=True)
class Run:
    """One training."""

    dest: Path
    condition: Condition
    kind: str
    seed: int

    @property
    def key(self) -> Dict[str, str]:
        """The columns that tell runs apart."""
        return {"kind": self.kind, "seed": str(self.seed), **{n: str(v) for n, v in asdict(self.condition).items()}}

    def data(self) -> Path:
        """The folder of its text, which kinds share."""
        text = asdict(self.condition.text(self.seed))
        return self.dest / "texts" / "-".join(str(value) for value in text.values())

    def command(self) -> List[str]:
        """``fairseq-train`` with all flags."""
        c = self.condition
        words = [
            *(
                sys.executable,
                "-m",
                "fairseq_cli.train",
                self.data() / "data-bin",
                "--user-dir",
                ROOT / "lamemo_fairseq",
            ),
            *("--task", "memory_language_modeling", "--arch", "lamemo_lm", "--criterion", "memory_cross_entropy"),
            *("--score-after", task.QUESTION, "--score-offset", 2, *KINDS[self.kind](c.tokens)),
            *(["--score-accuracy-only"] if c.all_tokens else []),
            *("--decoder-layers", c.layers, "--decoder-embed-dim", c.width, "--decoder-ffn-embed-dim", 4 * c.width),
            *("--decoder-attention-heads", 2, "--decoder-normalize-before", "--dropout", 0),
            *("--tokens-per-sample", c.tokens, "--batch-size", c.rows, "--update-freq", 1 if c.one_segment else 2),
            *("--optimizer", "adam", "--lr", c.lr, "--clip-norm", 0.25, "--max-update", c.updates, "--seed", self.seed),
            *(
                "--lr-scheduler",
                "polynomial_decay",
                "--total-num-update",
                c.updates,
                "--disable-validation",
                "--no-save",
            ),
            *("--log-format", "json", "--log-interval", INTERVAL, "--num-workers", 0),
        ]
        return [str(word) for word in words]

    def train(self, until: float) -> Dict[str, str]:
        """Trains until it is solved, over, or ``until`` (of time.monotonic) has come; the row."""
        began, accuracies = time.monotonic(), []
        log = self.dest / "logs" / f"{'-'.join(self.key.values())}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as copy:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
            child = subprocess.Popen(self.command(), **pipes)
            timer = threading.Timer(min(max(0.0, until - began), threading.TIMEOUT_MAX), child.terminate)
            timer.start()
            assert child.stdout is not None
            for line in child.stdout:
                copy.write(line)
                kind, values = record(line)
                if kind == "train":
                    accuracies.append(float(values["accuracy"]))
                if solved_at(accuracies):
                    child.terminate()
                    break
            child.wait()
            timer.cancel()
        last = len(accuracies) * INTERVAL
        at = solved_at(accuracies)
        status = "solved" if at else "unsolved" if last == self.condition.updates else "failed"
        if status == "failed" and time.monotonic() >= until:
            status = "stopped"
        return {
            **self.key,
            "status": status,
            "solved_at": str(at or ""),
            "last_update": str(last),
            "seconds": f"{time.monotonic() - began:.0f}",
            "revision": revision(),
            "curve": " ".join(f"{accuracy:.1f}" for accuracy in accuracies),
        }


def solved_at(accuracies: List[float]) -> int:
    """The update of the first of two successive points that are high enough; 0: there are none."""
    for number, pair in enumerate(zip(accuracies, accuracies[1:]), start=1):
        if min(pair) >= SOLVED:
            return number * INTERVAL
    return 0


def read(dest: Path) -> List[Dict[str, str]]:
    """The rows of a folder's table, none where there is none."""
    path = dest / TABLE
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(dest: Path, row: Dict[str, str]) -> None:
    """One row more, with the heads if it is the first."""
    path = dest / TABLE
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def run(options: argparse.Namespace) -> None:
    """The command."""
    if options.report:
        from . import diagnostic_report

        diagnostic_report.write(options.dest, read(options.dest))
        return
    until = time.monotonic() + options.time_budget * 60
    kinds = options.kinds.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kinds {kind} is not known: choose of {', '.join(KINDS)}")
    options.dest.mkdir(parents=True, exist_ok=True)
    grid = itertools.product(numbers("seeds", options.seeds), conditions(options), kinds)
    runs = [Run(options.dest, condition, kind, seed) for seed, condition, kind in grid]
    done = [row for row in read(options.dest) if row["status"] in DONE]
    missing = [one for one in runs if not any(one.key.items() <= row.items() for row in done)]
    writing = threading.Lock()

    def attend(one: Run) -> None:
        if time.monotonic() >= until:
            return
        with writing:
            task.prepare(one.data(), one.condition.text(one.seed))
        row = one.train(until)
        with writing:
            append(options.dest, row)
        told = f"{row['status']} at update {row['last_update']}, {row['seconds']} s"
        print(f"diagnostic: {one.condition.order} {one.kind} seed {one.seed}: {told}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(attend, missing))
