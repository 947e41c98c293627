"""``lamemo report``."""

import argparse
from pathlib import Path

HELP = "Writes one self-contained page from a study's folder or a training's --save-dir."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("folder", type=Path, help="a study's folder, or a --save-dir (with its logs in it)")
    parser.add_argument("--report", type=Path, required=True, help="the page to write")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page."""
    from ..study.records import write_page

    write_page(arguments.folder, arguments.report)
    print(f"wrote {arguments.report}")
    return 0
