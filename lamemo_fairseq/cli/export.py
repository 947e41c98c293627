"""``lamemo export``."""

import argparse
import math
import os
from typing import Dict, List

from ..core.errors import UsageError
from .text_flags import add_text_flags, text_options

HELP = "Makes a checkpoint a directory to hand on: safetensors, configuration, dictionary, model card."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of a training, or of lamemo import")
    parser.add_argument("directory", metavar="DIR", help="to make; it must not exist, or be empty")
    parser.add_argument(
        "--data", metavar="DATA_BIN", help="has dict.txt (default: CHECKPOINT's folder, or what it read)"
    )
    add_text_flags(parser)
    parser.add_argument("--license", default="unknown", metavar="NAME", help="of the weights, e.g. mit, cc-by-4.0")
    parser.add_argument(
        "--score", action="append", default=[], metavar="NAME=VALUE", help="for the model card; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the directory, and prints its path."""
    import lamemo_fairseq  # noqa: F401  (registers)

    from ..interop.export import Facts, export
    from .generate import data_of

    checkpoint = arguments.checkpoint
    if not os.path.isfile(checkpoint):
        raise UsageError(f"CHECKPOINT {checkpoint} is no file: name a checkpoint")
    scores = scores_of(arguments.score)
    data = arguments.data or data_of(*os.path.split(os.path.abspath(checkpoint)))
    facts = Facts(text_options(arguments, data), scores, arguments.license)
    export(checkpoint, arguments.directory, data, facts)
    print(arguments.directory)
    return 0


def scores_of(given: List[str]) -> Dict[str, str]:
    """The scores by name, as they were typed."""
    found = {}
    for score in given:
        name, equals, value = score.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not equals or not math.isfinite(number):
            raise UsageError(f"--score {score} is no NAME=NUMBER: write e.g. --score 'test bpc=2.866'")
        found[name] = value
    return found
