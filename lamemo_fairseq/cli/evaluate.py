"""``lamemo evaluate``: checkpoints scored over a grid of lengths, in one run."""

import argparse
import ast
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, Dict

from ..core.errors import UsageError

if TYPE_CHECKING:
    from ..evaluation.grid import Cell
    from ..evaluation.scoring import LossAccumulator

HELP = "Scores checkpoints over a grid of memory lengths, segment lengths and context windows; tables and figures."

#: largest distance at which attention is looked at
REACH = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags. Those that fairseq-eval-lm has too mean the same there."""
    from ..plugin.config import BREAK_MODES, MEMORY_RESETS

    add = parser.add_argument
    add("data", help="directory that fairseq-preprocess made")
    add("--path", nargs="+", required=True, metavar="CHECKPOINT", help="checkpoints, or exported models")
    add("--results-path", required=True, metavar="DIR", help="where the results go; finished cells there are kept")
    add("--gen-subset", default="test", metavar="SPLIT", help="what is scored (default: test)")
    add("--mem-len", nargs="+", type=int, metavar="M", help="memory lengths (default: as trained)")
    add("--tokens-per-sample", nargs="+", type=int, default=[128], metavar="T", help="segment lengths (default: 128)")
    add("--context-window", nargs="+", type=int, default=[0], metavar="C", help="context windows (default: 0)")
    add("--batch-size", type=int, default=1, metavar="B", help="streams that are read side by side (default: 1)")
    add(
        "--stream-warmup",
        type=int,
        metavar="W",
        help="unscored tokens before each stream but the first's own (default: M + C)",
    )
    add("--memory-reset", choices=list(MEMORY_RESETS), default="never", help="where a stream's memory is cleared")
    add("--document-separator", metavar="SYMBOL", help="what ends a document (default: a blank line)")
    add("--sample-break-mode", choices=list(BREAK_MODES), default="none", help="eos: every line with an empty memory")
    add("--model-overrides", default="{}", metavar="DICT", help="e.g. \"{'clamp_len': 400, 'same_length': True}\"")
    add("--attention", action="store_true", help="also look at attention by distance (slower)")
    add("--num-workers", type=int, default=0, help="processes that read data (default: 0)")
    add("--fp16", action="store_true", help="half precision")
    add("--cpu", action="store_true", help="use no GPU")


def run(arguments: argparse.Namespace) -> int:
    """Scores what is not finished yet, with nothing but the progress bar and results to be seen."""
    logging.basicConfig(level=logging.WARNING, force=True)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    evaluate(arguments)
    return 0


def evaluate(args: argparse.Namespace) -> None:
    """Scores all cells that are not finished, then writes tables and figures."""
    from fairseq import utils

    from ..evaluation.grid import cells_of, score_grid
    from ..training.exported import weights_file

    args.overrides = overrides_of(args)
    args.path = [weights_file(path) for path in args.path]
    cells = cells_of(args)
    split = os.path.join(utils.split_paths(args.data)[0], f"{args.gen_subset}.bin")
    score_grid(cells, args, split, lambda cell, title: score(cell, args, title))


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


def task_for(args: argparse.Namespace, tokens: int) -> Any:
    """The task, as ``fairseq-eval-lm`` would set it up: what is not said here has fairseq's defaults."""
    from fairseq.dataclass.configs import FairseqConfig
    from omegaconf import OmegaConf

    from ..plugin.config import MemoryLanguageModelingConfig
    from ..plugin.task import MemoryLanguageModelingTask

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


def score(cell: "Cell", args: argparse.Namespace, title: str) -> Dict[str, Any]:
    """Loads a cell's checkpoint and scores it."""
    import torch
    from fairseq import checkpoint_utils, utils

    from ..core.probe import Probe
    from ..data.counts import read_counts
    from ..evaluation.grid import score_cell

    task = task_for(args, cell.tokens - cell.context)
    overrides = dict(args.overrides)
    if cell.mem_len is not None:
        overrides["mem_len"] = cell.mem_len
    [model], cfg, _ = checkpoint_utils.load_model_ensemble_and_task([cell.path], arg_overrides=overrides, task=task)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    model = (model.half() if args.fp16 else model).to(device).eval()
    task.load_dataset(args.gen_subset)
    text = task.dataset(args.gen_subset)

    def finish(tally: "LossAccumulator") -> None:
        tally.score.targets = text.total
        tally.score.check(cell.path)
        tally.score = tally.score.of_original(counts, args.gen_subset)

    counts = read_counts(utils.split_paths(args.data)[0], args.gen_subset)
    plan = task.evaluation_plan(cell.context, args.batch_size)
    batches = plan.batches(text, task.source_dictionary, finish, args.num_workers)
    probe = Probe(cfg.model.decoder_layers, REACH) if args.attention else None
    found = score_cell(model, batches, device, probe, title)
    warning = batches.tally.score.unknown_warning(args.gen_subset)
    if warning is not None:
        print(warning)
    return {"memory_type": str(cfg.model.memory_type), **found}
