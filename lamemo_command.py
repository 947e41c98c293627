"""The console command ``lamemo``: its list of commands comes at once, the rest from ``lamemo_fairseq.cli``.

Importing that package registers it with fairseq, which takes seconds. So what ``lamemo --help`` shows is read from the
commands' files, without importing them.
"""

import argparse
import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def main() -> int:
    """Shows the list, or runs a command; its exit status."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        show_commands()
        return 0
    from lamemo_fairseq.cli.main import main as run

    return run()


def show_commands() -> None:
    """What ``python -m lamemo_fairseq --help`` shows too."""
    package = find_spec("lamemo_fairseq")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "cli"
    table = ast.parse((folder / "main.py").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="lamemo", description=(ast.get_docstring(table) or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in constant(table, "COMMANDS").items():
        source = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        commands.add_parser(name, help=constant(source, "HELP"))
    parser.print_help()


def constant(module: ast.Module, name: str) -> Any:
    """The value that a module gives ``name``."""
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(getattr(one, "id", "") == name for one in targets):
            assert node.value is not None
            return ast.literal_eval(node.value)
    raise KeyError(name)
