"""Speed, measured here and now: ``lamemo benchmark`` prints a table for each part.

Absolute numbers belong to the machine. Ratios come from one run, in which what is compared takes turns, and each
side counts with the lower quartile of its times: what else the machine does only ever adds.

A part is a function from the options to a table; what each does stands in this folder.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Dict, Iterator, Sequence, Tuple

import torch

from ..core.errors import UsageError
from ..core.memory import KINDS
from . import decode, lengths, modes, paper, peers, presets, steps
from .models import STANDARD, TINY
from .table import Part, Table


def count_paper(options: argparse.Namespace) -> Table:
    """The paper's sizes on a GPU, counted without one."""
    rows = [paper.row(paper.count(preset, kind)) for preset in paper.COUNTED for kind in KINDS]
    title = (
        "paper: counted on fake CUDA tensors, not measured: a step (forward, loss, backward) behind a full memory and "
        f"a token within a segment, bfloat16; rates {paper.FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s and "
        f"{paper.BYTES_PER_SECOND / 1e12:.1f} TB/s"
    )
    return Table(title, paper.HEAD, rows)


PARTS: Dict[str, Part] = {
    "decode": decode.decode,
    "train": steps.train,
    "lengths": lengths.lengths,
    "presets": presets.time_presets,
    "compile": modes.compare,
    "eval": steps.evaluate,
    "paper": count_paper,
    "peers": peers.peers,
}
#: parts that are run together; cpu: all ratios of time
SUITES = {"cpu": ("train", "decode", "eval", "peers")}


def tables(options: argparse.Namespace) -> Iterator[Tuple[str, Table]]:
    """The chosen parts' tables by their names, as they come."""
    for name in options.parts or PARTS:
        yield name, PARTS[name](options)


def write_json(path: Path, found: Sequence[Table], notes: Sequence[str]) -> None:
    """Ratios by name, the tables as printed, and notes of whoever started this."""
    shown = [{"title": one.title, "head": list(one.head), "rows": [list(row) for row in one.rows]} for one in found]
    ratios = {name: ratio for table in found for name, ratio in table.ratios.items()}
    path.write_text(json.dumps({"notes": notes, "ratios": ratios, "tables": shown}, indent=1) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="times that what is compared takes turns")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: shows that all of it runs, not how fast")
    parser.add_argument("--suite", choices=sorted(SUITES), help="parts that belong together")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write ratios and tables to this file too")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write notes and tables to this file too")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write a part's figure to DIR/PART.svg")
    parser.add_argument("--note", action="append", default=[], help="a line to stand in these files")


def run(options: argparse.Namespace) -> None:
    """Prints the chosen parts' tables, and writes them to files after each part: what is measured stays."""
    options.parts = options.parts or list(SUITES.get(options.suite, ()))
    for name in options.parts:
        if name not in PARTS:
            raise UsageError(f"{name} is no part: choose of {', '.join(PARTS)}")
    options.sizes = TINY if options.tiny else STANDARD
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    found = []
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
    for name, table in tables(options):
        print(table, end="\n\n", flush=True)
        if options.figures is not None and table.figure is not None:
            (options.figures / f"{name}.svg").write_text(table.figure, encoding="utf-8")
        found.append(table)
        if options.json is not None:
            write_json(options.json, found, options.note)
        if options.markdown is not None:
            parts = [*(f"- {note}" for note in options.note), "", *(f"{one.markdown()}\n" for one in found)]
            options.markdown.write_text("\n".join(parts), encoding="utf-8")
