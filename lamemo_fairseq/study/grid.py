"""Memory kinds side by side: the same text, scorer, updates and number of parameters, several seeds each.

    lamemo study runs/study --seeds 1,2,3 --report runs/study/report.html

Trains a grid of kinds x seeds x corpora (x conditions, see --vary) with fairseq-train, --jobs processes at a time, and
scores each with lamemo evaluate. Started again, it goes on where it was; --time-budget says when to stop.
DEST holds

    corpora/CORPUS/               texts and data-bin
    runs/CORPUS/CONDITION/KIND/seedK/   checkpoints, train.log, row.json (CONDITION is base where nothing is varied)
    results.csv                   one row per finished run
    memory.csv, attention.csv, alpha.csv    bits against the memory held when scoring, attention by distance, and the
                                  weight of what slots held before they looked ahead, with --memory-lengths
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
import os
import platform
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from ..data.characters import TextCharacters
from ..data.prepare import bpe, python_source, shakespeare
from ..data.prepare import corpus as texts
from . import records as results
from .kinds import KINDS, USUAL
from .run import OWN, SETTINGS, Point, Run, Setting, StudyError, bits, numbers


def words(prepare: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The same text as words: a character corpus is made beside it, and its lines are split at blanks."""

    def as_words(dest: Path) -> Any:
        letters = dest.with_name(dest.name.removesuffix("-words"))
        manifest = prepare(letters)
        splits = {split: decoded(letters / f"{split}.txt") for split in texts.SPLITS}
        return texts.prepare(dest, texts.Corpus(manifest["source"], texts.WORDS, splits, manifest["inputs"]))

    return as_words


def pieces(prepare: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The same text in pieces of words, learned from its training split."""

    def as_pieces(dest: Path) -> Any:
        letters = dest.with_name(dest.name.removesuffix("-bpe"))
        manifest = prepare(letters)
        splits = {split: list(decoded(letters / f"{split}.txt")) for split in texts.SPLITS}
        return bpe.prepare(dest, texts.Corpus(manifest["source"], texts.WORDS, splits, manifest["inputs"]), MERGES)

    return as_pieces


def decoded(path: Path) -> Iterator[str]:
    """Lines of plain text of a file of characters."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield TextCharacters.decode(line)


MERGES = 2000  # of byte-pair encoding

CORPORA: dict[str, Callable[[Path], Any]] = {
    "shakespeare": shakespeare.prepare,
    "python": python_source.prepare,
    "topics": lambda dest: shakespeare.prepare(dest, offline=True),  # small, and on every machine
    "shakespeare-words": words(shakespeare.prepare),
    "python-words": words(python_source.prepare),
    "shakespeare-bpe": pieces(shakespeare.prepare),
    "python-bpe": pieces(python_source.prepare),
}


def run(options: argparse.Namespace) -> None:
    """The command."""
    logging.disable(logging.INFO)  # what fairseq has to say stands in each run's logs
    warnings.filterwarnings("ignore", "'pin_memory' argument is set as true")
    study(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("dest", type=Path, help="folder of the study, made or continued")
    parser.add_argument("--kinds", default=",".join(USUAL), help=f"of {', '.join(KINDS)} (default: {','.join(USUAL)})")
    parser.add_argument("--seeds", default="1,2,3", help="one run per kind for each (default: 1,2,3)")
    parser.add_argument("--corpora", default="shakespeare,python", help=f"of {', '.join(CORPORA)}")
    parser.add_argument("--setting", choices=sorted(SETTINGS), help="sizes (default: gpu where there is one, or cpu)")
    parser.add_argument("--updates", type=int, help="instead of the setting's")
    parser.add_argument("--memory", type=int, help="slots of memory, instead of the setting's")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FLAG=V1,V2",
        help="a further dimension of the grid: memory, tokens (of a segment), updates, or a flag of fairseq-train, "
        "e.g. lr=0.001,0.0005; can be given several times",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    parser.add_argument("--memory-lengths", default="", help="score with these memories as well, e.g. 0,32,64,128")
    parser.add_argument("--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="then stop")
    parser.add_argument("--report", type=Path, help="write one page with everything here")


def chosen(flag: str, value: str, known: Any) -> list[str]:
    """The names in ``value``, all of them ``known``."""
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in known:
            raise StudyError(f"--{flag} {name} is not known: choose of {', '.join(known)}")
    if not names:
        raise StudyError(f"--{flag} names nothing: choose of {', '.join(known)}")
    return distinct(flag, names)


def conditions(varied: list[str]) -> list[Point]:
    """All points of the dimensions that --vary gives, or the one that varies nothing."""
    dimensions: dict[str, list[str]] = {}
    for vary in varied:
        flag, _, values = vary.lstrip("-").partition("=")
        parts = [value for value in values.split(",") if value]
        if not flag or not parts:
            raise StudyError(f"--vary {vary} says no values: write FLAG=V1,V2")
        if flag in OWN or flag in dimensions:
            raise StudyError(f"--vary {vary} varies what is set already: choose memory, updates, or another flag")
        if "/" in vary:
            raise StudyError(f"--vary {vary} cannot name a folder: leave out the slash")
        dimensions[flag] = distinct("vary", parts)
    return list(itertools.product(*([(flag, value) for value in values] for flag, values in dimensions.items())))


def distinct(flag: str, values: list[Any]) -> list[Any]:
    """``values``, none of them twice: two runs must not share a folder."""
    if len(set(values)) < len(values):
        raise StudyError(f"--{flag} {','.join(map(str, values))} names something twice: name each once")
    return values


def study(options: argparse.Namespace) -> None:
    """The grid, then tables, figures and the page."""
    began = time.monotonic()
    setting = SETTINGS[options.setting or ("gpu" if torch.cuda.is_available() else "cpu")]
    kinds = chosen("kinds", options.kinds, KINDS)
    names = chosen("corpora", options.corpora, CORPORA)
    seeds = distinct("seeds", numbers("seeds", options.seeds))
    lengths = numbers("memory-lengths", options.memory_lengths)
    points = conditions(options.vary)
    if options.jobs < 1:
        raise StudyError(f"--jobs {options.jobs} leaves nobody to work: give 1 or more")
    for flag in ("updates", "memory"):
        if getattr(options, flag) is not None and getattr(options, flag) < 1:
            raise StudyError(f"--{flag} {getattr(options, flag)} is too small: give 1 or more")
    if not seeds:
        raise StudyError("--seeds names none: give numbers joined by commas")
    for name in names:
        CORPORA[name](options.dest / "corpora" / name)
    about = {
        "command": command_line(options),
        **configuration(setting, options, points),
        "machine": f"{machine()}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    runs = [
        Run(options, setting, kind, seed, name, point)
        for seed, name, point, kind in itertools.product(seeds, names, points, kinds)
    ]
    for run in runs:
        run.check()
    (options.dest / "about.json").write_text(json.dumps(about, indent=1))
    until = began + options.time_budget * 60
    pool = ThreadPoolExecutor(options.jobs)
    try:
        for job in as_completed([pool.submit(attend, run, until, lengths) for run in runs]):
            if job.result():
                finish(options)
    except BaseException as error:
        print(f"study: stopping behind the runs that have begun ({error or 'interrupted'})", flush=True)
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    for run in runs:
        run.write_sample()
    if not all(run.finished for run in runs):
        print("study: the time is up; the same command goes on from here", flush=True)
    finish(options)


def command_line(options: argparse.Namespace) -> str:
    """The command with the flags whose values are not the default."""
    usual = vars(parse([str(options.dest)]))
    words = ["lamemo", "study", str(options.dest)]
    for name, default in usual.items():
        value = getattr(options, name)
        if value != default:
            values = value if isinstance(value, list) else [value]
            words += [word for one in values for word in (f"--{name.replace('_', '-')}", str(one))]
    return shlex.join(words)


def configuration(setting: Setting, options: argparse.Namespace, points: list[Point]) -> dict[str, str]:
    """What the runs share, as they are run: flags take the place of the setting's values, and what varies says so."""
    shared = {name: str(value) for name, value in dataclasses.asdict(setting).items()}
    for name in ("updates", "memory"):
        if getattr(options, name) is not None:
            shared[name] = str(getattr(options, name))
    for flag in dict(points[0]):
        values = dict.fromkeys(dict(point)[flag] for point in points)
        shared[flag.replace("-", "_")] = f"{', '.join(values)} (varied)"
    return shared


def attend(run: Run, until: float, lengths: list[int]) -> bool:
    """Does what a run still lacks, unless the clock stands at ``until``; whether it is complete."""
    left = until - time.monotonic()
    if left <= 0 or not run.complete(left):
        return False
    run.look(lengths)
    return True


def machine() -> str:
    """What the runs' seconds belong to."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {platform.machine()}"


def finish(options: argparse.Namespace) -> None:
    """The CSV files from the runs' own, then everything that follows from them."""
    rows = [json.loads(path.read_text()) for path in sorted(options.dest.glob("runs/*/*/*/*/row.json"))]
    if rows:
        write_csv(options.dest / "results.csv", rows)
    memory, attention, alphas = [], [], []
    for path in sorted(options.dest.glob("runs/*/*/*/*/look.json")):
        row = json.loads((path.parent / "row.json").read_text())
        run = {name: row[name] for name in ("corpus", "condition", "kind", "seed")}
        found = json.loads(path.read_text())
        memory += [{**run, "length": result["mem_len"], "bits": bits(result)} for result in found]
        for result in found:
            for layer, (mean, shares) in enumerate(zip(result["alpha_by_layer"], result["alpha_histogram_by_layer"])):
                alpha = {"mean": mean, "near_0": shares[0], "near_1": shares[-1]}
                alphas.append({**run, "length": result["mem_len"], "layer": layer + 1, **alpha})
        # Attention is shown for the largest of the memories.
        widest = max(found, key=lambda result: result["mem_len"])
        for distance, share in enumerate(widest["attention_by_distance"]):
            if share is not None:
                attention.append({**run, "distance": distance, "share": share})
    for name, lines in (("memory", memory), ("attention", attention), ("alpha", alphas)):
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
    """Rows under the names of the first one's columns."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
