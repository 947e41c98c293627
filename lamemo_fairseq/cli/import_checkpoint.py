"""``lamemo import``."""

import argparse

HELP = "Turns a checkpoint of the authors' LaMemo program into one that every fairseq command loads."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--checkpoint", required=True, help="file with model_config, model_state, vocab")
    parser.add_argument("--save-dir", required=True, help="where checkpoint.pt and dict.txt go")


def run(arguments: argparse.Namespace) -> int:
    """Converts the file, and prints what it became."""
    from ..interop.authors import import_checkpoint

    print(import_checkpoint(arguments.checkpoint, arguments.save_dir))
    return 0
