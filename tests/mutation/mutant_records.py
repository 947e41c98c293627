"""The mutants of a file of the package: which there are, and what ``mutate.py`` found out about them."""

import ast
import difflib
import hashlib
import json
import random
from pathlib import Path
from typing import Any, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mutants"
#: calls whose arguments are words alone
SPOKEN = {"warning", "info", "warn", "debug", "warn_once", "UsageError"}


class WithoutWords(ast.NodeTransformer):
    """A function without the texts of its errors and log lines, and without its own name."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SPOKEN:
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = ""
        return self.generic_visit(node)


def functions_of(code: str) -> Dict[str, ast.FunctionDef]:
    """Every function of the file of mutants, by its name there."""
    return {node.name: node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}


def words_only(original: ast.FunctionDef, mutant: ast.FunctionDef) -> bool:
    """Whether a mutant differs in the text of an error or of a log line alone."""
    one, other = (ast.dump(WithoutWords().visit(ast.parse(ast.unparse(f)))) for f in (original, mutant))
    return one == other


def difference(original: ast.FunctionDef, mutant: ast.FunctionDef) -> str:
    """The changed lines."""
    one, other = (ast.unparse(function).splitlines()[1:] for function in (original, mutant))
    return "\n".join(line for line in list(difflib.unified_diff(one, other, n=0, lineterm=""))[2:] if line[:2] != "@@")


class Mutants:
    """The mutants of one file of the package."""

    def __init__(self, path: str, seed: int) -> None:
        from mutmut.mutation.file_mutation import mutate_file_contents

        self.path, self.stem = path, path.replace("/", ".").removesuffix(".py")
        self.module, self.results = f"lamemo_fairseq.{self.stem}", FOLDER / f"{self.stem}.json"
        self.code = mutate_file_contents(path, (ROOT / "lamemo_fairseq" / path).read_text()).code
        self.functions = functions_of(self.code)
        names = [name for name in self.functions if "__mutmut_" in name and not name.endswith("_orig")]
        self.silent = [name for name in names if words_only(self.original(name), self.functions[name])]
        spoken = [name for name in names if name not in set(self.silent)]
        self.names = random.Random(seed).sample(spoken, len(spoken))  # so that the first n are a random sample
        self.known: Dict[str, Any] = json.loads(self.results.read_text()) if self.results.exists() else {}

    def original(self, name: str) -> ast.FunctionDef:
        """The function of which ``name`` is a mutant."""
        return self.functions[name.rpartition("__mutmut_")[0] + "__mutmut_orig"]

    def key(self, name: str) -> str:
        """What tells whether a mutant is the one that was run: numbers move when a function is edited."""
        return hashlib.sha256(ast.unparse(self.functions[name]).encode()).hexdigest()[:12]

    def status(self, name: str) -> str:
        """``killed``, ``survived``, ``no tests``, or nothing where it was not run."""
        found = self.known.get(name, {})
        return found["status"] if found.get("key") == self.key(name) else ""

    def note(self, name: str, status: str, by: str) -> None:
        """Writes down how a mutant fared."""
        self.known[name] = {"status": status, "by": by, "key": self.key(name)}
        self.results.write_text(json.dumps(self.known, indent=0))

    def report(self) -> None:
        """Survivors with what was changed, and the numbers."""
        run = [name for name in self.names if self.status(name)]
        alive = [name for name in run if self.status(name) != "killed"]
        for name in sorted(alive):
            print(f"{name}: {self.status(name)}\n{difference(self.original(name), self.functions[name])}\n")
        print(
            f"{self.path}: {len(self.names) + len(self.silent)} mutants, {len(self.silent)} of texts alone, {len(run)} "
            f"run{'' if len(run) == len(self.names) else ', drawn at random'}, {len(run) - len(alive)} killed, "
            f"{len(alive)} survive"
        )


def in_turn(files: List[Mutants], wanted: Dict[str, List[str]]) -> List[Tuple[Mutants, str]]:
    """Mutants of all files, so that all advance by the same share of theirs."""
    turns = [
        (k / len(wanted[f.path]), n, f, name) for n, f in enumerate(files) for k, name in enumerate(wanted[f.path])
    ]
    return [(file, name) for _, _, file, name in sorted(turns, key=lambda turn: turn[:2])]
