"""Mutation testing: breaks the package in one place at a time and tells which breaks no test sees.

``bash scripts/mutate.sh`` installs what this needs and runs it. mutmut makes the mutants: one copy of a file holds all
of them, and MUTANT_UNDER_TEST chooses one while it runs. They are run here and not by ``mutmut run``, because that
collects and imports anew for each (four seconds): here pytest collects once per file, and every mutant is a fork that
runs the tests which reach its function, the fastest first, up to the first that fails.

Results go to mutants/FILE.json. A mutant that changes nothing but the text of an error or a log line is not run.
"""

import argparse
import functools
import itertools
import json
import os
import random
import resource
import selectors
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

from mutant_records import FOLDER, ROOT, Mutants, in_turn

CORE = ["tests/core/test_reference.py", "tests/core/test_network.py", "tests/core/test_fused.py"]
CORE += ["tests/core/test_decoding.py", "tests/core/test_autocast.py", "tests/core/test_golden.py"]
CONTRACT = ["tests/core/test_memory_base.py", "tests/core/test_memory_condensed.py", "tests/core/test_memory_signal.py"]
CONTRACT += ["tests/core/test_contract.py", "tests/core/test_kinds.py", "tests/core/test_continuous.py"]
SEGMENTS = [
    "tests/data/test_segments.py",
    "tests/data/test_layout.py",
    "tests/data/test_documents.py",
    "tests/evaluation/test_scoring.py",
]
#: file -> the tests that speak about it, first those of it alone, which take milliseconds; those that start processes
#: of their own cannot see a mutant
FILES: Dict[str, List[str]] = {
    "core/softmax.py": ["tests/core/test_softmax.py", *CORE],
    "core/attention.py": ["tests/core/test_attention.py", "tests/core/test_kinds.py", *CORE],
    "core/positions.py": ["tests/core/test_positions.py", "tests/core/test_contract.py", *CORE],
    "core/memory/base.py": [*CONTRACT, *CORE],
    "core/memory/compressive.py": ["tests/core/test_memory_condensed.py", *CONTRACT, *CORE],
    "core/memory/continuous.py": ["tests/core/test_memory_signal.py", *CONTRACT, *CORE],
    "core/memory/lookahead.py": [*CONTRACT, *CORE],
    "core/memory/none.py": [*CONTRACT, *CORE],
    "core/memory/recurrence.py": [*CONTRACT, *CORE],
    "core/memory/signal.py": ["tests/core/test_memory_signal.py", *CONTRACT, *CORE],
    "data/layout.py": SEGMENTS,
    "data/segments.py": SEGMENTS,
    "data/text.py": SEGMENTS,
    "data/varied_layout.py": SEGMENTS,
    "data/documents.py": SEGMENTS,
    "data/memory_store.py": ["tests/data/test_memory_store.py", "tests/core/test_contract.py"],
    "evaluation/scoring.py": ["tests/evaluation/test_account.py", "tests/evaluation/test_scoring.py"],
    "evaluation/plan.py": ["tests/evaluation/test_account.py", "tests/evaluation/test_scoring.py"],
    "plugin/criterion.py": ["tests/plugin/test_criterion_by_hand.py", "tests/plugin/test_criterion.py"],
}
#: seconds of processor time: for a first look at a mutant, and of a case that is never left out of that
QUICK, CHEAP = 4.0, 0.08


class Runner:
    """A pytest plugin that, in place of the tests, runs each mutant in a fork."""

    def __init__(self, mutants: List[Tuple[Mutants, str]], quick: bool, jobs: int) -> None:
        self.mutants, self.quick, self.jobs = mutants, quick, jobs
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
        session.config._tmp_path_factory.getbasetemp()  # one folder for all processes
        items = {item.nodeid: item for item in session.items}
        reached = self.reached(session.items)
        kills: Dict[str, int] = {}  # a test that killed others is asked first
        work = ((self.question(file, name, reached, kills, items), (file, name)) for file, name in self.mutants)
        for done, ((file, name), found) in enumerate(in_forks(work, self.jobs), 1):
            found = found or {"status": "killed", "by": "no end or no answer"}
            kills[found["by"]] = kills.get(found["by"], 0) + 1
            file.note(name, found["status"], found["by"])
            print(f"{done}/{len(self.mutants)} {file.path} {name} {found['status']} {found['by']}", flush=True)
        return True

    def reached(self, items: List[Any]) -> Dict[str, Dict[str, float]]:
        """Function -> the tests that reach it and their seconds."""
        by_file: Dict[str, List[Any]] = {}
        for item in items:
            by_file.setdefault(item.location[0], []).append(item)
        work = ((Question(functools.partial(self.survey, own), 3600), name) for name, own in by_file.items())
        reached: Dict[str, Dict[str, float]] = {}
        for name, found in in_forks(work, self.jobs):
            assert found is not None, f"{name} fails without a mutant"
            self.prepared.update({fixture: Path(path) for fixture, path in found.pop("fixtures").items()})
            for function, tests in found.items():
                reached.setdefault(function, {}).update(tests)
        return reached

    def question(
        self, file: Mutants, name: str, reached: Dict[str, Any], kills: Dict[str, int], items: Dict[str, Any]
    ) -> "Question":
        """What is asked of one mutant."""
        own = reached.get(f"{file.module}.{name.rpartition('__mutmut_')[0]}", {})
        own = {test: seconds for test, seconds in own.items() if test.split("::")[0] in FILES[file.path]}
        tests = [items[test] for test in sorted(own, key=lambda test: (-kills.get(test, 0), own[test]))]
        if self.quick:
            tests = self.some_of(tests, name, own)
        return Question(
            lambda: self.first_failure(f"{file.module}.{name}", tests), 10 + 5 * sum(own[item.nodeid] for item in tests)
        )

    def some_of(self, items: List[Any], name: str, seconds: Dict[str, float]) -> List[Any]:
        """Cheap items, and of each test function the fastest and two others: as many as run in ``QUICK`` seconds."""
        others = random.Random(name).sample(items, len(items))
        wanted: Dict[str, List[Any]] = {}
        for item in items:
            wanted.setdefault(item.location[0] + item.originalname, [item])
        for item in others:
            group = wanted[item.location[0] + item.originalname]
            if len(group) < 3 and item not in group:
                group.append(item)
        group_of = {item: wanted[item.location[0] + item.originalname] for item in items}
        chosen = [item for item in items if seconds[item.nodeid] < CHEAP or item in group_of[item]]
        spent = list(itertools.accumulate(seconds[item.nodeid] for item in chosen))
        return [item for item, until in zip(chosen, spent) if until <= max(QUICK, spent[0])]

    def survey(self, items: List[Any]) -> Dict[str, Any]:
        """Function -> the tests that reach it and their seconds."""
        from mutmut.mutation.trampoline import set_mutant_under_test
        from mutmut.state import state

        set_mutant_under_test("stats")
        reached: Dict[str, Any] = {}
        for item, following in zip(items, [*items[1:], None]):
            state()._stats.clear()
            start = time.process_time()
            if self.fails(item, following):
                raise AssertionError(f"{item.nodeid} fails without a mutant")
            for function in state()._stats:
                reached.setdefault(function, {})[item.nodeid] = time.process_time() - start
        reached["fixtures"] = self.made
        return reached

    def fails(self, item: Any, following: Any) -> bool:
        """Runs one test; fixtures that the ``following`` one needs too stay."""
        from _pytest.runner import runtestprotocol

        return any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))

    def first_failure(self, name: str, items: List[Any]) -> Dict[str, Any]:
        """What the tests say of one mutant."""
        from mutmut.mutation.trampoline import set_mutant_under_test

        set_mutant_under_test(name)
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # for those that ask for all of the memory
        for item, following in zip(items, [*items[1:], None]):
            if self.fails(item, following):
                return {"status": "killed", "by": item.nodeid}
        return {"status": "survived" if items else "no tests", "by": ""}


class Question(NamedTuple):
    """Work for a process of its own, which is ended after ``seconds`` of processor time."""

    work: Callable[[], Any]
    seconds: float


def in_forks(work: Iterable[Tuple[Question, Any]], jobs: int) -> Iterator[Tuple[Any, Any]]:
    """(name, answer) of each question, as they come; None where a process died or took too long."""
    running: Dict[int, Tuple[Any, int]] = {}
    waiting, answers = selectors.DefaultSelector(), iter(work)
    while True:
        while len(running) < jobs:
            following = next(answers, None)
            if following is None:
                break
            question, name = following
            descriptor, child = asked(question)
            running[descriptor] = (name, child)
            waiting.register(descriptor, selectors.EVENT_READ)
        if not running:
            return
        for ready, _ in waiting.select():
            name, child = running.pop(ready.fd)
            waiting.unregister(ready.fd)
            with os.fdopen(ready.fd, "rb") as file:
                answer = file.read()
            os.waitpid(child, 0)
            yield name, json.loads(answer) if answer else None


def asked(question: Question) -> Tuple[int, int]:
    """Starts a process; where its answer is read, and its number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return reading, child
    os.close(reading)
    silent, error = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    signal.setitimer(signal.ITIMER_PROF, question.seconds)  # of processor time; its signal ends the process
    try:
        answer = json.dumps(question.work()).encode()
        with os.fdopen(writing, "wb") as file:
            file.write(answer)
    except BaseException as problem:
        os.write(error, f"{type(problem).__name__}: {problem}\n".encode())
    os._exit(0)


def copy_of_the_project(folder: Path) -> None:
    """What the tests need, in a folder where files may be broken."""
    shutil.rmtree(folder, ignore_errors=True)
    kept = {"mutants", "runs", ".git", ".venv", "build", "dist", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    shutil.copytree(
        ROOT, folder, ignore=lambda at, names: kept & set(names) if Path(at) == ROOT else {"__pycache__"} & set(names)
    )


def run(files: List[Mutants], wanted: Dict[str, List[str]], quick: bool, jobs: int) -> None:
    """Runs the ``wanted`` mutants of ``files``."""
    import pytest
    from hypothesis import Phase, settings

    copy = FOLDER / f"project.{os.getpid()}"
    copy_of_the_project(copy)
    for file in files:
        (copy / "lamemo_fairseq" / file.path).write_text(file.code)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:0] = [str(copy), str(copy / "tests")]
    # A failure is all that is asked for: nothing is shrunk, and the same examples are drawn each time.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutation", phases=phases, derandomize=True, database=None, deadline=None)
    settings.load_profile("mutation")
    tests = sorted({test for file in files for test in FILES[file.path] if (copy / test).exists()})
    words = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--capture=no", *tests]
    pytest.main([f"--rootdir={copy}", *words], plugins=[Runner(in_turn(files, wanted), quick, jobs)])
    os.chdir(ROOT)
    shutil.rmtree(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of the package: {', '.join(FILES)}; none: all")
    parser.add_argument("--sample", type=int, help="so many mutants of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--quick", action="store_true", help="of each test that has many parameters, three cases alone")
    parser.add_argument("--nearest", action="store_true", help="the first file of tests alone; see then --survivors")
    parser.add_argument("--survivors", action="store_true", help="run those again that survived, and no others")
    parser.add_argument("--show", action="store_true", help="run none, but show what was found before")
    options = parser.parse_args()
    unknown = [path for path in options.files if path not in FILES]
    if unknown:
        parser.error(f"{unknown[0]} has no tests in the table at the head of this file")
    FOLDER.mkdir(exist_ok=True)
    if options.nearest:
        FILES.update({path: tests[:1] for path, tests in FILES.items()})
    files = [Mutants(path, options.seed) for path in options.files or FILES]
    again = ("survived", "no tests") if options.survivors else ("",)
    wanted = {f.path: [name for name in f.names[: options.sample] if f.status(name) in again] for f in files}
    if any(wanted.values()) and not options.show:
        run(files, wanted, options.quick, options.jobs)
    for file in files:
        file.report()


if __name__ == "__main__":
    main()
