"""``lamemo diagnose``."""

import argparse

HELP = "Trains memory kinds on a task whose answers are known, until they solve it; a table and figures of that."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    from ..study import diagnostic

    diagnostic.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs what is missing in the table, or reports."""
    from ..study import diagnostic

    diagnostic.run(arguments)
    return 0
