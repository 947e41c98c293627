"""``lamemo study``."""

import argparse

HELP = "Trains and scores a grid of memory kinds, corpora, seeds and conditions; tables, figures and a page of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    from ..study import grid

    grid.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the grid, or goes on with it."""
    from ..study import grid

    grid.run(arguments)
    return 0
