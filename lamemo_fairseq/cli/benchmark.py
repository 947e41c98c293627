"""``lamemo benchmark``."""

import argparse

HELP = "Measures speed, here and now: training, decoding, evaluation and more, a table for each part."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    from ..benchmark import command

    command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the parts that are asked for."""
    from ..benchmark import command

    command.run(arguments)
    return 0
