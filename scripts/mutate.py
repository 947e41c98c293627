"""Mutation testing: breaks the package in one place at a time and tells which breaks no test sees.

``bash scripts/mutate.sh`` installs what this needs and runs it. mutmut makes the mutants: one copy of a file holds all
of them, and MUTANT_UNDER_TEST chooses one while it runs. They are run here and not by ``mutmut run``, because that
collects and imports anew for each (four seconds): here pytest collects once per file, and every mutant is a fork that
runs the tests which reach its function, the fastest first, up to the first that fails.

Results go to mutants/FILE.json. A mutant that changes nothing but the text of an error or a log line is not run.
"""

import argparse
import ast
import difflib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Set

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "mutants"

CORE = ["tests/core/test_reference.py", "tests/core/test_network.py", "tests/core/test_fused.py"]
CORE += ["tests/core/test_decoding.py", "tests/core/test_autocast.py", "tests/core/test_golden.py"]
CONTRACT = ["tests/core/test_contract.py", "tests/core/test_kinds.py"]
SEGMENTS = ["tests/data/test_layout.py", "tests/data/test_documents.py", "tests/evaluation/test_scoring.py"]
#: file -> the tests that speak about it; those that start processes of their own cannot see a mutant
FILES: Dict[str, List[str]] = {
    "core/softmax.py": ["tests/core/test_softmax.py", *CORE],
    "core/attention.py": ["tests/core/test_attention.py", "tests/core/test_kinds.py", *CORE],
    "core/positions.py": ["tests/core/test_positions.py", "tests/core/test_contract.py", *CORE],
    "core/memory/base.py": [*CONTRACT, *CORE],
    "core/memory/compressive.py": [*CONTRACT, *CORE],
    "core/memory/continuous.py": [*CONTRACT, *CORE],
    "core/memory/lookahead.py": [*CONTRACT, *CORE],
    "core/memory/none.py": [*CONTRACT, *CORE],
    "core/memory/recurrence.py": [*CONTRACT, *CORE],
    "core/memory/signal.py": [*CONTRACT, *CORE],
    "data/layout.py": SEGMENTS,
    "data/segments.py": SEGMENTS,
    "data/text.py": SEGMENTS,
    "data/memory_store.py": ["tests/data/test_memory_store.py", "tests/core/test_contract.py"],
    "evaluation/scoring.py": ["tests/evaluation/test_scoring.py"],
    "evaluation/plan.py": ["tests/evaluation/test_scoring.py", "tests/data/test_layout.py"],
    "plugin/criterion.py": ["tests/plugin/test_criterion.py"],
}
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


class Runner:
    """A pytest plugin that, in place of the tests, runs each mutant in a fork."""

    def __init__(self, module: str, mutants: List[str], results: Path) -> None:
        self.module, self.mutants, self.results = module, mutants, results
        self.made: Dict[str, str] = {}  # fixtures that are folders made by a command ...
        self.prepared: Dict[str, Path] = {}  # ... once for all mutants

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.argname not in self.prepared:
            return None
        value = self.prepared[fixturedef.argname]
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        """Notes the folders of fixtures that are made once per session."""
        if fixturedef.scope == "session" and fixturedef.cached_result and isinstance(fixturedef.cached_result[0], Path):
            self.made[fixturedef.argname] = str(fixturedef.cached_result[0])

    def pytest_runtestloop(self, session: Any) -> bool:
        reached = self.in_fork(lambda: self.survey(session.items), 1200)
        assert isinstance(reached, dict), "the tests fail without a mutant"
        self.prepared = {name: Path(path) for name, path in reached.pop("fixtures").items()}
        known = json.loads(self.results.read_text()) if self.results.exists() else {}
        items = {item.nodeid: item for item in session.items}
        kills: Dict[str, int] = {}  # a test that killed others of a function is asked first
        for done, name in enumerate(self.mutants, 1):
            function = f"{self.module}.{name.rpartition('__mutmut_')[0]}"
            chosen = sorted(reached.get(function, {}).items(), key=lambda pair: (-kills.get(pair[0], 0), pair[1]))
            seconds = 20 + 10 * sum(duration for _, duration in chosen)
            start = time.monotonic()
            tests = [items[test] for test, _ in chosen]
            found = self.in_fork(lambda name=name, tests=tests: self.first_failure(name, tests), seconds)
            status = "no tests" if not tests else found["status"] if found else "killed"
            known[name] = {"status": status, "by": found["by"] if found else "no end or no answer", "tests": len(tests)}
            kills[known[name]["by"]] = kills.get(known[name]["by"], 0) + 1
            self.results.write_text(json.dumps(known, indent=0))
            took = time.monotonic() - start
            print(f"{done}/{len(self.mutants)} {name} {status} {took:.1f}s {known[name]['by']}", flush=True)
        return True

    def survey(self, items: List[Any]) -> Dict[str, Any]:
        """Function -> the tests that reach it and their seconds."""
        from mutmut.mutation.trampoline import set_mutant_under_test
        from mutmut.state import state

        set_mutant_under_test("stats")
        reached: Dict[str, Any] = {}
        for item, following in zip(items, [*items[1:], None]):
            state()._stats.clear()
            start = time.monotonic()
            if self.fails(item, following):
                raise AssertionError(f"{item.nodeid} fails without a mutant")
            for function in state()._stats:
                reached.setdefault(function, {})[item.nodeid] = time.monotonic() - start
        reached["fixtures"] = self.made
        return reached

    def fails(self, item: Any, following: Any) -> bool:
        """Runs one test; fixtures that the ``following`` one needs too stay."""
        from _pytest.runner import runtestprotocol

        return any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))

    def first_failure(self, name: str, items: List[Any]) -> Dict[str, Any]:
        """What the tests say of one mutant."""
        from mutmut.mutation.trampoline import set_mutant_under_test

        set_mutant_under_test(f"{self.module}.{name}")
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # for those that ask for all of the memory
        for item, following in zip(items, [*items[1:], None]):
            if self.fails(item, following):
                return {"status": "killed", "by": item.nodeid}
        return {"status": "survived", "by": ""}

    def in_fork(self, work: Any, seconds: float) -> Any:
        """What ``work`` returns in a process of its own; None where that dies or takes longer."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.close(reading)
            silent = os.open(os.devnull, os.O_WRONLY)
            error = os.dup(2)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            signal.setitimer(signal.ITIMER_REAL, seconds)  # the default of the signal ends the process
            try:
                answer = json.dumps(work()).encode()
                with os.fdopen(writing, "wb") as file:
                    file.write(answer)
            except BaseException as problem:
                os.write(error, f"{type(problem).__name__}: {problem}\n".encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            answer = file.read()
        os.waitpid(child, 0)
        return json.loads(answer) if answer else None


def copy_of_the_project(folder: Path) -> None:
    """What the tests need, in a folder where files may be broken."""
    shutil.rmtree(folder, ignore_errors=True)
    kept = {"mutants", "runs", ".git", ".venv", "build", "dist", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    shutil.copytree(
        ROOT, folder, ignore=lambda at, names: kept & set(names) if Path(at) == ROOT else {"__pycache__"} & set(names)
    )


def mutate(path: str, options: argparse.Namespace) -> None:
    """All mutants of one file of the package."""
    from hypothesis import Phase, settings
    from mutmut.mutation.file_mutation import mutate_file_contents

    source = (ROOT / "lamemo_fairseq" / path).read_text()
    code = mutate_file_contents(path, source).code
    functions = functions_of(code)
    pairs = {n: functions[n.rpartition("__mutmut_")[0] + "__mutmut_orig"] for n in functions if "__mutmut_" in n}
    names = [n for n in pairs if not n.endswith("_orig")]
    silent: Set[str] = {n for n in names if words_only(pairs[n], functions[n])}
    FOLDER.mkdir(exist_ok=True)
    stem = path.replace("/", ".").removesuffix(".py")
    results = FOLDER / f"{stem}.json"
    known = json.loads(results.read_text()) if results.exists() and not options.afresh else {}
    chosen = [n for n in names if n not in silent]
    total = len(chosen)
    if options.sample and options.sample < total:
        chosen = sorted(random.Random(options.seed).sample(chosen, options.sample), key=chosen.index)
    wanted = [n for n in chosen if n not in known or (options.survivors and known[n]["status"] != "killed")]
    if not options.show and wanted:
        if options.afresh:
            results.unlink(missing_ok=True)
        copy = FOLDER / f"{stem}.project"
        copy_of_the_project(copy)
        (copy / "lamemo_fairseq" / path).write_text(code)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        # A failure is all that is asked for: nothing is shrunk, and the same examples are drawn each time.
        phases = [Phase.explicit, Phase.generate]
        settings.register_profile("mutation", phases=phases, derandomize=True, database=None, deadline=None)
        settings.load_profile("mutation")
        import pytest

        tests = [test for test in FILES[path] if (copy / test).exists()]
        module = "lamemo_fairseq." + stem
        words = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=no", *tests]
        pytest.main([f"--rootdir={copy}", *words], plugins=[Runner(module, wanted, results)])
        known = json.loads(results.read_text())
        os.chdir(ROOT)
    done = {n: known[n]["status"] for n in chosen if n in known}
    alive = [n for n in done if done[n] != "killed"]
    for name in alive:
        print(f"{name}: {done[name]}\n{difference(pairs[name], functions[name])}\n")
    drawn = f", {len(chosen)} drawn (seed {options.seed})" if len(chosen) < total else ""
    print(
        f"{path}: {len(names)} mutants, {len(silent)} of texts alone{drawn}, {len(done)} run, "
        f"{len(done) - len(alive)} killed, {len(alive)} survive"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of the package: {', '.join(FILES)}; none: all")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--survivors", action="store_true", help="run those again that survived")
    parser.add_argument("--afresh", action="store_true", help="forget what was found before")
    parser.add_argument("--show", action="store_true", help="only show what was found before")
    options = parser.parse_args()
    unknown = [path for path in options.files if path not in FILES]
    if unknown:
        parser.error(f"{unknown[0]} has no tests in the table at the head of this file")
    if len(options.files) == 1:
        mutate(options.files[0], options)
        return
    flags = [word for word in sys.argv[1:] if word not in options.files]
    for path in options.files or FILES:
        subprocess.run([sys.executable, __file__, path, *flags], check=False)


if __name__ == "__main__":
    main()
