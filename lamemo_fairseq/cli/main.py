"""``lamemo COMMAND``, or ``python -m lamemo_fairseq COMMAND``: one entry point, a table of commands."""

import argparse
from pathlib import Path
from typing import List, Optional

import lamemo_fairseq


def user_dir(arguments: List[str]) -> int:
    """Prints the directory that ``--user-dir`` of fairseq's commands takes, wherever the package is installed."""
    argparse.ArgumentParser(prog="lamemo user-dir", description=user_dir.__doc__).parse_args(arguments)
    print(Path(lamemo_fairseq.__file__).resolve().parent)
    return 0


#: name -> function of the arguments that follow it; its exit status
COMMANDS = {"user-dir": user_dir}


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command that the first argument names."""
    parser = argparse.ArgumentParser(prog="lamemo", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS), help="what to do; COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parsed = parser.parse_args(arguments)
    return COMMANDS[parsed.command](parsed.arguments)
