"""A grid of evaluations: checkpoints by memory lengths, segment lengths and context windows.

Every cell of the grid is one checkpoint at one memory length, segment length and context window. A cell is written
down as soon as it is finished, so a run that was stopped goes on where it was.
"""

import argparse
import itertools
import os
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
from tqdm import tqdm

from ..core.errors import UsageError
from ..core.pretrained import sha256
from ..core.probe import Probe
from . import figures as report
from .scoring import ScoredBatches, score_batches


class Cell(NamedTuple):
    """One checkpoint at one set of lengths; ``mem_len`` None: as trained."""

    path: str
    mem_len: Optional[int]
    tokens: int
    context: int

    def __str__(self) -> str:
        memory = "memory as trained" if self.mem_len is None else f"memory {self.mem_len}"
        return f"{self.path}: {memory}, segment {self.tokens}, context window {self.context}"


def cells_of(args: argparse.Namespace) -> List[Cell]:
    """The grid. Windows that leave no new token in a segment are left out, and named."""
    cells = []
    mem_lens = [None] if args.mem_len is None else args.mem_len
    grid = itertools.product(args.path, mem_lens, args.tokens_per_sample, args.context_window)
    for cell in itertools.starmap(Cell, grid):
        if 0 <= cell.context < cell.tokens:
            cells.append(cell)
        else:
            print(f"left out, because the context window is not below the segment length: {cell}")
    if not cells:
        raise UsageError(
            f"--context-window {args.context_window[0]} is not below --tokens-per-sample {args.tokens_per_sample[0]}: "
            "choose a smaller window, or longer segments"
        )
    return cells


def digest(path: str) -> str:
    """SHA-256 of a file."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}: name one that exists")
    return sha256(path)


def key_of(cell: Cell, args: argparse.Namespace, checkpoint: str, split: str) -> Dict[str, Any]:
    """All that a cell's result depends on: a finished cell is kept as long as this is the same."""
    return {
        "checkpoint": cell.path,
        "checkpoint_sha256": checkpoint,
        "split": args.gen_subset,
        "split_sha256": split,
        "asked_mem_len": cell.mem_len,
        "tokens_per_sample": cell.tokens,
        "context_window": cell.context,
        "batch_size": args.batch_size,
        "stream_warmup": args.stream_warmup,
        "memory_reset": args.memory_reset,
        "document_separator": args.document_separator,
        "sample_break_mode": args.sample_break_mode,
        "model_overrides": args.model_overrides,
        "fp16": args.fp16,
        "attention": args.attention,
    }


def score_cell(
    model: Any, batches: ScoredBatches, device: torch.device, probe: Optional[Probe] = None, title: str = ""
) -> report.Result:
    """What ``model`` scores on ``batches``, behind a progress bar called ``title``."""
    began = time.perf_counter()
    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two states of the bar
    score_batches(model, tqdm(batches, desc=title, unit="segment", mininterval=pause), device, probe)
    seconds = time.perf_counter() - began
    result = {
        "position_encoding": model.decoder.positions.encoding.name,
        "mem_len": batches.tally.memory,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(batches.tally.score.scored / seconds, 1),
        **report.measures(batches.tally),
    }
    return result if probe is None else {**result, **report.attention(probe)}


def score_grid(
    cells: List[Cell], args: argparse.Namespace, split: str, score: Callable[[Cell, str], report.Result]
) -> None:
    """Scores all cells that are not finished, then writes tables and figures.

    Args:
        cells: the grid.
        args: the command's flags.
        split: the file of tokens that is scored.
        score: scores a cell; the text is the title of its progress bar.
    """
    digests = {path: digest(path) for path in dict.fromkeys([*args.path, split])}
    finished = report.read(args.results_path)
    results = []
    for number, cell in enumerate(cells, start=1):
        key = key_of(cell, args, digests[cell.path], digests[split])
        kept = [result for result in finished if key.items() <= result.items()]
        if kept:
            results.append(kept[0])
            print(f"kept from before: {cell}")
            continue
        result = {**key, **score(cell, f"{number}/{len(cells)}")}
        results.append(result)
        finished.append(result)
        report.write(finished, args.results_path)
        print(report.line(result), flush=True)
    for path in [*report.write(finished, args.results_path), *report.draw(results, args.results_path)]:
        print(f"wrote {path}")
