"""``lamemo COMMAND``, or ``python -m lamemo_fairseq COMMAND``: one entry point, a table of commands.

A command is a module of this folder with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(arguments)``. It is
imported when it is asked for, and imports what it needs in these functions, so that help comes at once.
"""

import argparse
import importlib
import os
import sys
from types import ModuleType
from typing import Dict, List, Optional

from ..core.errors import UsageError

#: command -> module of this folder
COMMANDS: Dict[str, str] = {
    "prepare": "prepare",
    "generate": "generate",
    "score": "score",
    "evaluate": "evaluate",
    "study": "study",
    "diagnose": "diagnose",
    "report": "report",
    "benchmark": "benchmark",
    "import": "import_checkpoint",
    "export": "export",
    "push": "push",
    "user-dir": "user_dir",
}


def module_of(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"{__package__}.{COMMANDS[command]}")


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command that the first argument names; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="lamemo", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = module_of(name)
        own = commands.add_parser(name, help=module.HELP, description=module.HELP)
        if words[:1] == [name]:  # the arguments of others are not built: that may take the import of fairseq
            module.add_arguments(own)
    parsed = parser.parse_args(words)
    # Fairseq looks for --user-dir in sys.argv, where it must not find ours.
    sys.argv = sys.argv[:1]
    try:
        return int(module_of(parsed.command).run(parsed) or 0)
    except UsageError as error:
        print(f"lamemo {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lamemo {parsed.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lamemo ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def old_spelling(old: str, new: List[str]) -> "None":
    """Runs ``lamemo NEW`` with this process's arguments, for a command that was called ``old``; ends the process."""
    print(f"{old} is now: lamemo {' '.join(new)}", file=sys.stderr)
    sys.exit(main([*new, *sys.argv[1:]]))
