"""One run of a study: a kind of memory on a corpus, trained with fairseq-train and scored. See ``lamemo study``."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Tuple

import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from fairseq.data import Dictionary

from ..core.errors import UsageError
from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder
from ..plugin.presets import PRESETS
from . import curves, sample
from .kinds import KINDS

#: where the package is imported from: a checkout, or site-packages
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Setting:
    """What all runs of a study share.

    Attributes:
        preset: sizes of the model.
        tokens: N, the length of a segment.
        memory: M, slots of memory.
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


# Flags that the study gives itself; memory, tokens and updates stand for some of them.
OWN = (
    *("memory-type", "mem-len", "tokens-per-sample", "batch-size", "seed", "max-update", "save-dir", "task", "arch"),
    *("criterion", "user-dir", "log-format", "log-interval", "validate-interval-updates", "save-interval-updates"),
)
Point = Tuple[Tuple[str, str], ...]  # what is varied, as (flag, value)


class StudyError(UsageError):
    """What the user did or has that cannot work, in one line."""


def numbers(flag: str, value: str) -> list[int]:
    """The whole numbers in ``value``."""
    try:
        return [int(part) for part in value.split(",") if part]
    except ValueError:
        raise StudyError(f"--{flag} {value} is no list of whole numbers: join them by commas") from None


def literal(value: str) -> int | float | str:
    """A flag's value as the number that it is, if it is one."""
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        return value


class Run:
    """One model: trained, scored, and a row of results."""

    def __init__(
        self, options: argparse.Namespace, setting: Setting, kind: str, seed: int, corpus: str, point: Point
    ) -> None:
        self.kind, self.seed, self.corpus, self.setting = kind, seed, corpus, setting
        self.updates = setting.updates if options.updates is None else options.updates
        self.memory = setting.memory if options.memory is None else options.memory
        self.jobs = options.jobs
        self.extra: list[str] = []
        for flag, value in point:
            if flag == "memory":
                [self.memory] = numbers("vary", value)
            elif flag == "updates":
                [self.updates] = numbers("vary", value)
            elif flag == "tokens":
                [tokens] = numbers("vary", value)
                self.setting = replace(setting, tokens=tokens)
            else:
                self.extra += [f"--{flag}", value]
        self.condition = " ".join(f"{flag}={value}" for flag, value in point)
        self.dest = options.dest
        self.data = options.dest / "corpora" / corpus / "data-bin"
        self.folder = options.dest / "runs" / corpus / (self.condition or "base") / kind / f"seed{seed}"
        self.row = self.folder / "row.json"

    def asked(self) -> dict[str, Any]:
        """What makes this run what it is, beside its folder's name."""
        sizes = {**asdict(self.setting), "updates": self.updates, "memory": self.memory}
        return {**sizes, "flags": " ".join(self.flags())}

    def check(self) -> None:
        """Raises where the folder holds a run that was begun as another."""
        if not any((self.folder / name).exists() for name in ("checkpoint_last.pt", "row.json")):
            return
        path = self.folder / "asked.json"
        if not path.exists():
            raise StudyError(f"{self.folder} does not say how it was begun: choose another folder than {self.dest}")
        begun = json.loads(path.read_text())
        for name, value in self.asked().items():
            if begun[name] != value:
                raise StudyError(
                    f"{self.folder} was begun with {name} {begun[name]}, not {value}: choose another folder than "
                    f"{self.dest}"
                )

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
        """The preset with memory ``kind`` and what is varied; position encodings are for this run's kind alone."""
        fields: dict[str, Any] = dict(PRESETS[self.setting.preset].model)
        flags = KINDS[kind](self.memory) + self.extra
        if kind != self.kind and "--position-encoding" in flags:
            at = flags.index("--position-encoding")
            del flags[at : at + 2]
        for flag, value in zip(flags, [*flags[1:], "--"]):
            name = flag[2:].replace("-", "_")
            if flag.startswith("--") and name in LaMemoConfig.__dataclass_fields__:
                fields[name] = True if value.startswith("--") else literal(value)
        return LaMemoConfig(**fields)

    def complete(self, seconds: float) -> bool:
        """Trains and scores what is not done yet; False where the time did not suffice."""
        if self.finished:
            return True
        setting = self.setting
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "asked.json").write_text(json.dumps(self.asked()))
        interval = math.gcd(setting.valid, self.updates)  # fairseq tells the seconds of whole intervals
        print(f"study: {self.corpus} {self.condition} {self.kind} seed {self.seed}", flush=True)
        # Fairseq counts the time of the interrupted run as well.
        limit = [] if seconds == float("inf") else ["--stop-time-hours", f"{(self.spent() + seconds) / 3600:.6f}"]
        log = self.execute(
            *("train.log", "fairseq_cli.train", self.data, "--user-dir", ROOT / "lamemo_fairseq"),
            *("--task", "memory_language_modeling", "--arch", setting.preset, "--save-dir", self.folder),
            *("--criterion", "memory_cross_entropy", "--tokens-per-sample", setting.tokens),
            *("--batch-size", setting.batch, "--seed", self.seed, "--random-offset", "--optimizer", "adam"),
            *("--lr", setting.lr, "--lr-scheduler", "cosine", "--warmup-updates", self.updates // 20),
            *("--clip-norm", 0.25, "--max-update", self.updates, "--validate-interval-updates", setting.valid),
            *("--max-valid-steps", setting.valid_steps, "--dropout", setting.dropout),
            *("--save-interval-updates", setting.valid, "--keep-interval-updates", 1, "--no-epoch-checkpoints"),
            *("--best-checkpoint-metric", "bits_per_token", "--log-format", "json", "--log-interval", interval),
            *(*self.flags(), *limit),
        )
        curve = curves.read_log(log)
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
        """Text of a finished model's own; while no others are trained, whose seconds it would cost."""
        path = self.folder / "sample.txt"
        if self.finished and not path.exists():
            model = sample.open_checkpoint(self.folder / "checkpoint_best.pt")
            path.write_text(sample.sample(model, tokens=300, seed=1))

    def spent(self) -> float:
        """Seconds that an interrupted run has taken, as fairseq counts them."""
        path = self.folder / "checkpoint_last.pt"
        return load_checkpoint_to_cpu(str(path))["extra_state"]["previous_training_time"] if path.exists() else 0.0

    def score(self, split: str, *arguments: Any, into: str = "scores") -> list[dict[str, Any]]:
        """What ``lamemo evaluate`` finds of the best checkpoint; it keeps what it has found before."""
        folder = self.folder / f"{into}-{split}"
        self.execute(
            *("evaluate.log", "lamemo_fairseq", "evaluate", self.data, "--path", self.folder / "checkpoint_best.pt"),
            *("--results-path", folder, "--gen-subset", split, "--batch-size", 4 * self.setting.batch),
            *("--tokens-per-sample", self.setting.tokens, *arguments),
        )
        return json.loads((folder / "results.json").read_text())

    def look(self, lengths: list[int]) -> None:
        """Scores the validation text with other lengths of the slots that are kept as they are, attention looked at.

        Distances beyond those of training are encoded as the largest of them: what a model makes of encodings that
        it has never seen would be no measure of its memory.
        """
        path = self.folder / "look.json"
        if self.kind == "none" or not lengths:
            return
        if path.exists() and {result["asked_mem_len"] for result in json.loads(path.read_text())} == set(lengths):
            return
        clamp = self.model(self.kind).clamp_len
        overrides = {"clamp_len": clamp if clamp > 0 else self.setting.tokens + self.memory}
        arguments = ("--attention", "--mem-len", *lengths, "--model-overrides", overrides)
        found = self.score("valid", *arguments, into="looks")
        path.write_text(json.dumps([result for result in found if result["asked_mem_len"] in lengths]))

    def execute(self, log_name: str, module: str, *arguments: Any) -> str:
        """Runs a module; its output, for training also that of earlier runs, in this log of the folder."""
        path = self.folder / log_name
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.jobs > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        with open(path, "a", encoding="utf-8") as log:
            command = [sys.executable, "-m", module, *map(str, arguments)]
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        text = path.read_text(encoding="utf-8")
        if done.returncode != 0:
            raise StudyError(f"{module} failed ({(text.strip() or 'no output').splitlines()[-1]}); see {path}")
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
