"""``lamemo user-dir``."""

import argparse
from pathlib import Path

import lamemo_fairseq

HELP = "Prints the directory that --user-dir of fairseq's commands takes, wherever the package is installed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the directory."""
    print(Path(lamemo_fairseq.__file__).resolve().parent)
    return 0
