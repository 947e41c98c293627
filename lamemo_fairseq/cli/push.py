"""``lamemo push``."""

import argparse

HELP = "Uploads an exported directory to the Hugging Face hub."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("directory", metavar="DIR", help="that lamemo export wrote")
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="a new one is seen by its owner alone")


def run(arguments: argparse.Namespace) -> int:
    """Uploads, and prints the address."""
    from ..generation.hub import push

    print(push(arguments.directory, arguments.repository, arguments.private))
    return 0
