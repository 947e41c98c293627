#!/usr/bin/env python3
"""Memory kinds side by side: the same text, scorer, updates and number of parameters, several seeds each.

    python scripts/study.py runs/study --seeds 1,2,3 --report runs/study/report.html

Trains a grid of kinds x seeds x corpora (x conditions, see --vary) with fairseq-train, --jobs processes at a time, and
scores each with lamemo_fairseq.evaluate. Started again, it goes on where it was; --time-budget says when to stop.
DEST holds

    corpora/CORPUS/               texts and data-bin
    runs/CORPUS/CONDITION/KIND/seedK/   checkpoints, train.log, row.json (CONDITION is base where nothing is varied)
    results.csv                   one row per finished run
    memory.csv, attention.csv     bits against the memory held when scoring, and attention by distance, with
                                  --memory-lengths
    table.md, *.svg, about.json   what follows from these, and what was asked for

Seeds are the outer loop, so that whenever the time is up, the kinds have been treated alike.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus as texts
import prepare_python
import prepare_shakespeare
import torch
from corpus import CorpusError
from fairseq.data import Dictionary

from lamemo_fairseq import results, sample
from lamemo_fairseq.config import LaMemoConfig
from lamemo_fairseq.decoder import LaMemoDecoder
from lamemo_fairseq.errors import UsageError
from lamemo_fairseq.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
logging.getLogger("matplotlib").setLevel(logging.WARNING)


def words(prepare: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The same text as words: a character corpus is made beside it, and its lines are split at blanks."""

    def as_words(dest: Path) -> Any:
        letters = dest.with_name(dest.name.removesuffix("-words"))
        manifest = prepare(letters)
        splits = {split: decoded(letters / f"{split}.txt") for split in texts.SPLITS}
        return texts.prepare(dest, texts.Corpus(manifest["source"], texts.WORDS, splits, manifest["inputs"]))

    return as_words


def decoded(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield texts.decode_characters(line)


CORPORA: dict[str, Callable[[Path], Any]] = {
    "shakespeare": prepare_shakespeare.prepare,
    "python": prepare_python.prepare,
    "topics": lambda dest: prepare_shakespeare.prepare(dest, offline=True),  # small, and on every machine
    "shakespeare-words": words(prepare_shakespeare.prepare),
    "python-words": words(prepare_python.prepare),
}

# With M rows to read for each: what a kind does with them is its own affair. Nothing else differs.
KINDS: dict[str, Callable[[int], list[str]]] = {
    "lookahead": lambda M: ["--memory-type", "lookahead", "--mem-len", str(M)],
    "recurrence": lambda M: ["--memory-type", "recurrence", "--mem-len", str(M)],
    "compressive": lambda M: [
        *("--memory-type", "compressive", "--mem-len", str(M // 2), "--compressed-mem-len", str(M - M // 2)),
        *("--compression-rate", "4"),
    ],
    "continuous": lambda M: [
        *("--memory-type", "continuous", "--mem-len", str(M // 2), "--long-term-basis", str(M - M // 2)),
        "--long-term-sticky",
    ],
    "none": lambda M: ["--memory-type", "none", "--mem-len", str(M)],
}


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share.

    Attributes:
        preset: sizes of the model.
        tokens: N, the length of a segment.
        memory: M, rows of memory.
        batch: B, streams.
        updates: of the optimizer.
        lr: peak of the cosine schedule.
        valid: updates between validations.
        valid_steps: segments per stream that these read; the final scores are over all of a text.
        dropout: 0 where a corpus is read less than once, which leaves nothing to be learned by heart.
    """

    preset: str
    tokens: int
    memory: int
    batch: int
    updates: int
    lr: float
    valid: int
    valid_steps: int
    dropout: float


SETTINGS = {
    "tiny": Setting("lamemo_lm_small", 32, 32, 32, 20, 1e-3, 10, 10, 0.0),  # to try the tool
    "cpu": Setting("lamemo_lm_small", 64, 64, 8, 1600, 1e-3, 200, 100, 0.0),
    "gpu": Setting("lamemo_lm_enwik8_base", 512, 512, 16, 20_000, 2.5e-4, 1000, 50, 0.1),
}


class StudyError(Exception):
    """What the user did or has that cannot work, in one line."""


def main() -> None:
    options = parse(sys.argv[1:])
    logging.disable(logging.INFO)  # what fairseq has to say stands in each run's logs
    try:
        study(options)
    except (StudyError, UsageError, CorpusError) as error:
        sys.exit(f"study: {error}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dest", type=Path, help="folder of the study, made or continued")
    parser.add_argument("--kinds", default=",".join(KINDS), help="memory kinds (default: all)")
    parser.add_argument("--seeds", default="1,2,3", help="one run per kind for each (default: 1,2,3)")
    parser.add_argument("--corpora", default="shakespeare,python", help=f"of {', '.join(CORPORA)}")
    parser.add_argument("--setting", choices=sorted(SETTINGS), help="sizes (default: gpu where there is one, or cpu)")
    parser.add_argument("--updates", type=int, help="instead of the setting's")
    parser.add_argument("--memory", type=int, help="rows of memory, instead of the setting's")
    parser.add_argument(
        "--vary",
        default="",
        metavar="FLAG=V1,V2",
        help="a further dimension of the grid: memory, updates, or a flag of fairseq-train, e.g. lr=0.001,0.0005",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--memory-lengths", default="", help="score with these memories as well, e.g. 0,32,64,128")
    parser.add_argument("--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="then stop")
    parser.add_argument("--report", type=Path, help="write one page with everything here")
    return parser.parse_args(arguments)


def chosen(flag: str, value: str, known: Any) -> list[str]:
    """The names in ``value``, all of them ``known``."""
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in known:
            raise StudyError(f"--{flag} {name} is not known: choose of {', '.join(known)}")
    if not names:
        raise StudyError(f"--{flag} names nothing: choose of {', '.join(known)}")
    return names


def numbers(flag: str, value: str) -> list[int]:
    """The whole numbers in ``value``."""
    try:
        return [int(part) for part in value.split(",") if part]
    except ValueError:
        raise StudyError(f"--{flag} {value} is no list of whole numbers: join them by commas") from None


def conditions(vary: str) -> list[tuple[str, str]]:
    """(flag, value) for each point of --vary, or one empty pair."""
    if not vary:
        return [("", "")]
    flag, _, values = vary.partition("=")
    if not flag or not values:
        raise StudyError(f"--vary {vary} says no values: write FLAG=V1,V2")
    return [(flag.lstrip("-"), value) for value in values.split(",")]


def study(options: argparse.Namespace) -> None:
    """The grid, then tables, figures and the page."""
    began = time.monotonic()
    setting = SETTINGS[options.setting or ("gpu" if torch.cuda.is_available() else "cpu")]
    kinds = chosen("kinds", options.kinds, KINDS)
    names = chosen("corpora", options.corpora, CORPORA)
    seeds, lengths = numbers("seeds", options.seeds), numbers("memory-lengths", options.memory_lengths)
    points = conditions(options.vary)
    if options.jobs < 1:
        raise StudyError(f"--jobs {options.jobs} leaves nobody to work: give 1 or more")
    if not seeds:
        raise StudyError("--seeds names none: give numbers joined by commas")
    for name in names:
        CORPORA[name](options.dest / "corpora" / name)
    about = {
        "command": shlex.join(["python", "scripts/study.py", *sys.argv[1:]]),
        **{name: str(value) for name, value in dataclasses.asdict(setting).items()},
        "machine": f"{machine()}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    (options.dest / "about.json").write_text(json.dumps(about, indent=1))
    runs = [
        Run(options, setting, kind, seed, name, flag, value)
        for seed, name, (flag, value), kind in itertools.product(seeds, names, points, kinds)
    ]
    until = began + options.time_budget * 60
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(attend, run, until, lengths): run for run in runs}
        for job in as_completed(jobs):
            if job.exception() is not None:
                pool.shutdown(cancel_futures=True)  # waits for the runs that have begun
            if job.result():
                jobs[job].write_sample()
                finish(options)
    if not all(run.finished for run in runs):
        print("study: the time is up; the same command goes on from here", flush=True)
    finish(options)


def attend(run: Run, until: float, lengths: list[int]) -> bool:
    """Does what a run still lacks, unless the clock stands at ``until``; whether it is complete."""
    left = until - time.monotonic()
    if not run.finished and (left <= 0 or not run.complete(left)):
        return False
    run.look(lengths)
    return True


def machine() -> str:
    """What the runs' seconds belong to."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {platform.machine()}"


class Run:
    """One model: trained, scored, and a row of results."""

    def __init__(
        self, options: argparse.Namespace, setting: Setting, kind: str, seed: int, corpus: str, flag: str, value: str
    ) -> None:
        self.kind, self.seed, self.corpus, self.setting = kind, seed, corpus, setting
        self.updates = options.updates or setting.updates
        self.memory = options.memory or setting.memory
        self.jobs = options.jobs
        self.condition, self.extra = "", []
        if flag == "memory":
            self.memory = numbers("vary", value)[0]
        elif flag == "updates":
            self.updates = numbers("vary", value)[0]
        elif flag:
            self.extra = [f"--{flag}", value]
        if flag:
            self.condition = f"{flag}={value}"
        self.data = options.dest / "corpora" / corpus / "data-bin"
        self.folder = options.dest / "runs" / corpus / (self.condition or "base") / kind / f"seed{seed}"
        self.row = self.folder / "row.json"

    @property
    def finished(self) -> bool:
        return self.row.exists()

    def flags(self) -> list[str]:
        """The model's flags: its kind's, and a feed-forward as wide as makes all kinds equally large."""
        flags = KINDS[self.kind](self.memory) + self.extra
        return flags if "--decoder-ffn-embed-dim" in flags else [*flags, "--decoder-ffn-embed-dim", str(self.width())]

    def width(self) -> int:
        """The feed-forward's width at which this kind has as many parameters as look-ahead (to half a unit)."""
        cfg = self.model(self.kind)
        surplus = parameters(cfg, self.setting.tokens) - parameters(self.model("lookahead"), self.setting.tokens)
        unit = (2 * cfg.decoder_embed_dim + 1) * cfg.decoder_layers
        return cfg.decoder_ffn_embed_dim - round(surplus / unit)

    def model(self, kind: str) -> LaMemoConfig:
        """The preset with memory ``kind`` and what is varied."""
        fields: dict[str, Any] = dict(PRESETS[self.setting.preset])
        flags = KINDS[kind](self.memory) + self.extra
        for flag, value in zip(flags, [*flags[1:], "--"]):
            name = flag[2:].replace("-", "_")
            if flag.startswith("--") and name in LaMemoConfig.__dataclass_fields__:
                fields[name] = True if value.startswith("--") else int(value) if value.isdigit() else value
        return LaMemoConfig(**fields)

    def complete(self, seconds: float) -> bool:
        """Trains and scores what is not done yet; False where the time did not suffice."""
        if self.finished:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        setting = self.setting
        print(f"study: {self.corpus} {self.condition} {self.kind} seed {self.seed}", flush=True)
        # Fairseq counts the time of the interrupted run as well.
        limit = [] if seconds == float("inf") else ["--stop-time-hours", f"{(self.spent() + seconds) / 3600:.6f}"]
        log = self.execute(
            *("fairseq_cli.train", self.data, "--user-dir", ROOT / "lamemo_fairseq"),
            *("--task", "memory_language_modeling", "--arch", setting.preset, "--save-dir", self.folder),
            *("--criterion", "memory_cross_entropy", "--tokens-per-sample", setting.tokens),
            *("--batch-size", setting.batch, "--seed", self.seed, "--random-offset", "--optimizer", "adam"),
            *("--lr", setting.lr, "--lr-scheduler", "cosine", "--warmup-updates", self.updates // 20),
            *("--clip-norm", 0.25, "--max-update", self.updates, "--validate-interval-updates", setting.valid),
            *("--max-valid-steps", setting.valid_steps, "--dropout", setting.dropout),
            *("--save-interval-updates", setting.valid, "--keep-interval-updates", 1, "--no-epoch-checkpoints"),
            *("--best-checkpoint-metric", "bpc", "--log-format", "json", "--log-interval", setting.valid),
            *(*self.flags(), *limit),
        )
        curve = results.read_curve(log)
        if not curve or curve[-1]["updates"] < self.updates:
            return False
        found = re.search(r"num\. (?:shared )?model params: ([\d,]+)", log)
        assert found
        row = {
            "corpus": self.corpus,
            "condition": self.condition,
            "kind": self.kind,
            "seed": self.seed,
            "parameters": int(found.group(1).replace(",", "")),
            "updates": self.updates,
            "seconds": curve[-1]["seconds"],
            "valid_bits": bits(self.score("valid")[0]),
            "test_bits": bits(self.score("test")[0]),
            "revision": revision(),
        }
        (self.folder / "curve.json").write_text(json.dumps(curve))
        self.row.write_text(json.dumps(row))
        return True

    def write_sample(self) -> None:
        """Text of the model's own, drawn by one run at a time: torch has one random state for all threads."""
        path = self.folder / "sample.txt"
        if not path.exists():
            model = sample.open_checkpoint(self.folder / "checkpoint_best.pt")
            path.write_text(sample.sample(model, tokens=300, seed=1))

    def spent(self) -> float:
        """Seconds that an interrupted run has taken."""
        path = self.folder / "train.log"
        walls = re.findall(r'"wall": "(\d+)"', path.read_text(encoding="utf-8")) if path.exists() else []
        return float(walls[-1]) if walls else 0.0

    def score(self, split: str, *arguments: Any) -> list[dict[str, Any]]:
        """What ``lamemo_fairseq.evaluate`` finds of the best checkpoint; it keeps what it has found before."""
        folder = self.folder / f"scores-{split}"
        self.execute(
            *("lamemo_fairseq.evaluate", self.data, "--path", self.folder / "checkpoint_best.pt"),
            *("--results-path", folder, "--gen-subset", split, "--batch-size", 4 * self.setting.batch),
            *("--tokens-per-sample", self.setting.tokens, *arguments),
        )
        return json.loads((folder / "results.json").read_text())

    def look(self, lengths: list[int]) -> None:
        """Scores the validation text with other lengths of the rows that are kept as they are, attention looked at."""
        path = self.folder / "look.json"
        if self.kind == "none" or not lengths or path.exists():
            return
        path.write_text(json.dumps(self.score("valid", "--attention", "--mem-len", *lengths)))

    def execute(self, module: str, *arguments: Any) -> str:
        """Runs a module; its output, for training also that of earlier runs, in the folder's log."""
        name = module.rpartition(".")[2]
        path = self.folder / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.jobs > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        with open(path, "a", encoding="utf-8") as log:
            command = [sys.executable, "-m", module, *map(str, arguments)]
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        text = path.read_text(encoding="utf-8")
        if done.returncode != 0:
            raise StudyError(f"{module} failed ({text.strip().splitlines()[-1]}); see {path}")
        return text


def bits(result: dict[str, Any]) -> float:
    """Bits per token: bits per character of characters, and the logarithm of the perplexity of words."""
    return result["loss_nats"] / math.log(2)


def parameters(cfg: LaMemoConfig, tokens: int) -> int:
    """How many a model has; the dictionary is the same for all kinds, so its size does not matter."""
    cfg.check()
    with torch.device("meta"):
        decoder = LaMemoDecoder(cfg, Dictionary(), tokens)
    return sum(parameter.numel() for parameter in decoder.parameters())


def revision() -> str:
    """The code's git revision, with a + where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def finish(options: argparse.Namespace) -> None:
    """The CSV files from the runs' own, then everything that follows from them."""
    rows = [json.loads(path.read_text()) for path in sorted(options.dest.glob("runs/*/*/*/*/row.json"))]
    if rows:
        write_csv(options.dest / "results.csv", rows)
    memory, attention = [], []
    for path in sorted(options.dest.glob("runs/*/*/*/*/look.json")):
        row = json.loads((path.parent / "row.json").read_text())
        run = {name: row[name] for name in ("corpus", "condition", "kind", "seed")}
        found = [result for result in json.loads(path.read_text()) if result["attention"]]
        memory += [{**run, "length": result["mem_len"], "bits": bits(result)} for result in found]
        # Attention is shown for the largest of the memories.
        widest = max(found, key=lambda result: result["mem_len"])
        for distance, share in enumerate(widest["attention_by_distance"]):
            if share is not None:
                attention.append({**run, "distance": distance, "share": share})
    for name, lines in (("memory", memory), ("attention", attention)):
        if lines:
            write_csv(options.dest / f"{name}.csv", lines)
    if not rows:
        return
    study = results.Study.read(options.dest)
    (options.dest / "table.md").write_text(study.table())
    for name, picture in study.figures().items():
        (options.dest / f"{name}.svg").write_text(picture)
    if options.report is not None:
        results.write_page(options.dest, options.report)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
