"""``lamemo score``: how well a trained model predicts plain text."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict

from ..core.errors import UsageError

if TYPE_CHECKING:
    from ..evaluation.scoring import Score

HELP = "Scores plain text with a trained model: loss, perplexity per token and word, bits per character and byte."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    from .generate import add_model

    add_model(parser)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="text, also .gz or .zip, or a folder; each by itself"
    )
    parser.add_argument(
        "--tokens-per-sample", type=int, metavar="N", help="new tokens in a segment (default: as in training)"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each file")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each file, and for all of them together."""
    from tqdm import tqdm

    from ..data.prepare.read import read_lines
    from ..data.spelling import Spelling
    from ..evaluation.score_text import score_text
    from ..evaluation.scoring import Score
    from .generate import load

    lm = load(arguments)
    length = lm.task.cfg.tokens_per_sample if arguments.tokens_per_sample is None else arguments.tokens_per_sample
    if length < 1:
        raise UsageError(f"--tokens-per-sample {length} is too small: choose 1 or more")
    models, dictionary, whole = list(lm.models), lm.src_dict, Score()
    pieces = Spelling.of(dictionary).uses_subwords

    for path in arguments.files:
        score = score_text(
            models,
            read_lines(path, "FILE"),
            lm.symbols,
            dictionary,
            length,
            str(path),
            partial(tqdm, desc=str(path), unit="segment", disable=not sys.stderr.isatty()),
        )
        whole = whole + score
        tell(str(path), score, models[0].memory_length, pieces, arguments.json)
    if len(arguments.files) > 1:
        tell(f"all {len(arguments.files)} files", whole, models[0].memory_length, pieces, arguments.json)
    return 0


def tell(name: str, score: "Score", memory: int, pieces: bool, as_json: bool) -> None:
    """Prints a score."""
    warning = score.unknown_warning(name)
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(as_record(name, score)) if as_json else f"{name}: {score.line(memory, pieces)}", flush=True)


def as_record(name: str, score: "Score") -> Dict[str, Any]:
    """What ``--json`` says. Words count ends of lines, unless the name says otherwise."""
    return {
        "file": name,
        "tokens": score.scored,
        "unknown": score.unknown,
        "words": score.words,
        "lines": score.lines,
        "characters": score.characters,
        "bytes": score.bytes,
        "loss_nats": score.loss,
        "perplexity_per_token": score.perplexity,
        "perplexity_per_word": score.word_perplexity,
        "perplexity_per_word_without_line_ends": score.plain_word_perplexity if score.words > score.lines else None,
        "bits_per_character": score.bits_per_character,
        "perplexity_per_character": 2**score.bits_per_character,
        "bits_per_byte": score.bits_per_byte,
        "perplexity_per_byte": 2**score.bits_per_byte,
    }
