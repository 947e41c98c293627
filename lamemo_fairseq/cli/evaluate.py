"""``python -m lamemo_fairseq.evaluate``: checkpoints scored over a grid of lengths, in one run.

Every cell of the grid is one checkpoint at one memory length, segment length and context window. A cell is written
down as soon as it is finished, so a run that was stopped goes on where it was.
"""

import argparse
import ast
import hashlib
import itertools
import logging
import os
import sys
import time
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq import checkpoint_utils, utils
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from tqdm import tqdm

from ..core.errors import UsageError
from ..core.probe import Probe
from ..plugin.config import BREAK_MODES, MEMORY_RESETS, MemoryLanguageModelingConfig
from ..plugin.error_reporting import install
from ..plugin.task import MemoryLanguageModelingTask
from . import figures as report
from .scoring import LossAccumulator, score_batches

#: largest distance at which attention is looked at
REACH = 4096


class Cell(NamedTuple):
    """One checkpoint at one set of lengths; ``mem_len`` None: as trained."""

    path: str
    mem_len: Optional[int]
    tokens: int
    context: int

    def __str__(self) -> str:
        memory = "memory as trained" if self.mem_len is None else f"memory {self.mem_len}"
        return f"{self.path}: {memory}, segment {self.tokens}, context window {self.context}"


def get_parser() -> argparse.ArgumentParser:
    """The command's flags. Those that fairseq-eval-lm has too mean the same there."""
    parser = argparse.ArgumentParser(
        prog="python -m lamemo_fairseq.evaluate", description="Scores checkpoints over a grid of lengths."
    )
    add = parser.add_argument
    add("data", help="directory that fairseq-preprocess made")
    add("--path", nargs="+", required=True, metavar="CHECKPOINT", help="checkpoints")
    add("--results-path", required=True, metavar="DIR", help="where the results go; finished cells there are kept")
    add("--gen-subset", default="test", metavar="SPLIT", help="what is scored (default: test)")
    add("--mem-len", nargs="+", type=int, metavar="M", help="memory lengths (default: as trained)")
    add("--tokens-per-sample", nargs="+", type=int, default=[128], metavar="T", help="segment lengths (default: 128)")
    add("--context-window", nargs="+", type=int, default=[0], metavar="C", help="context windows (default: 0)")
    add("--batch-size", type=int, default=1, metavar="B", help="rows that are read side by side (default: 1)")
    add(
        "--stream-warmup",
        type=int,
        metavar="W",
        help="unscored tokens before each row but the first's own (default: M + C)",
    )
    add("--memory-reset", choices=list(MEMORY_RESETS), default="never", help="where a row's memory is cleared")
    add("--document-separator", metavar="SYMBOL", help="what ends a document (default: a blank line)")
    add("--sample-break-mode", choices=list(BREAK_MODES), default="none", help="eos: every line with an empty memory")
    add("--model-overrides", default="{}", metavar="DICT", help="e.g. \"{'clamp_len': 400, 'same_length': True}\"")
    add("--attention", action="store_true", help="also look at attention by distance (slower)")
    add("--num-workers", type=int, default=0, help="processes that read data (default: 0)")
    add("--fp16", action="store_true", help="half precision")
    add("--cpu", action="store_true", help="use no GPU")
    return parser


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


def overrides_of(args: argparse.Namespace) -> Dict[str, Any]:
    """``--model-overrides`` as a dictionary."""
    try:
        overrides = ast.literal_eval(args.model_overrides)
    except (ValueError, SyntaxError):
        overrides = None
    if not isinstance(overrides, dict):
        raise UsageError(
            f"--model-overrides {args.model_overrides} is no dictionary: write e.g. \"{{'clamp_len': 400}}\""
        )
    return overrides


def task_for(args: argparse.Namespace, tokens: int) -> MemoryLanguageModelingTask:
    """The task, as ``fairseq-eval-lm`` would set it up: what is not said here has fairseq's defaults."""
    whole = OmegaConf.structured(FairseqConfig)
    whole.task = OmegaConf.structured(
        MemoryLanguageModelingConfig(
            data=args.data,
            tokens_per_sample=tokens,
            memory_reset=args.memory_reset,
            document_separator=args.document_separator,
            stream_warmup=args.stream_warmup,
            sample_break_mode=args.sample_break_mode,
        )
    )
    return MemoryLanguageModelingTask.setup_task(whole.task)


def digest(path: str) -> str:
    """SHA-256 of a file."""
    if not os.path.isfile(path):
        raise UsageError(f"there is no file {path}: name one that exists")
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


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


def evaluate(cell: Cell, args: argparse.Namespace, title: str) -> Dict[str, Any]:
    """Scores one cell."""
    task = task_for(args, cell.tokens - cell.context)
    overrides = dict(args.overrides)
    if cell.mem_len is not None:
        overrides["mem_len"] = cell.mem_len
    [model], cfg, _ = checkpoint_utils.load_model_ensemble_and_task([cell.path], arg_overrides=overrides, task=task)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    model = (model.half() if args.fp16 else model).to(device).eval()
    task.load_dataset(args.gen_subset)
    text = task.dataset(args.gen_subset)
    protocol = task.protocol(cell.context, args.batch_size)

    def finish(tally: LossAccumulator) -> None:
        tally.score.targets = text.total
        tally.score.check(cell.path)

    batches = protocol.batches(text, task.source_dictionary, finish, args.num_workers)
    probe = Probe(cfg.model.decoder_layers, REACH) if args.attention else None
    began = time.perf_counter()
    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two states of the bar
    score_batches(model, tqdm(batches, desc=title, unit="segment", mininterval=pause), device, probe)
    seconds = time.perf_counter() - began
    result = {
        "memory_type": str(cfg.model.memory_type),
        "position_encoding": model.decoder.positions.encoding.name,
        "mem_len": batches.tally.memory,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(batches.tally.score.scored / seconds, 1),
        **report.measures(batches.tally),
    }
    return result if probe is None else {**result, **report.attention(probe)}


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Scores all cells that are not finished, then writes tables and figures."""
    args = get_parser().parse_args(arguments)
    args.overrides = overrides_of(args)
    cells = cells_of(args)
    split = os.path.join(utils.split_paths(args.data)[0], args.gen_subset)
    digests = {path: digest(path) for path in {*args.path, f"{split}.bin"}}
    finished = report.read(args.results_path)
    results = []
    for number, cell in enumerate(cells, start=1):
        key = key_of(cell, args, digests[cell.path], digests[f"{split}.bin"])
        kept = [result for result in finished if key.items() <= result.items()]
        if kept:
            results.append(kept[0])
            print(f"kept from before: {cell}")
            continue
        result = {**key, **evaluate(cell, args, f"{number}/{len(cells)}")}
        results.append(result)
        finished.append(result)
        report.write(finished, args.results_path)
        print(report.line(result), flush=True)
    for path in [*report.write(finished, args.results_path), *report.draw(results, args.results_path)]:
        print(f"wrote {path}")


def prepare_process() -> None:
    """Silences what would talk through the progress bar, and shows mistakes in one line."""
    logging.basicConfig(level=logging.WARNING, force=True)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    install()


if __name__ == "__main__":
    prepare_process()
    main()
