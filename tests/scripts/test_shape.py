"""The shape of the code: lengths of functions and files, and the slow reference of everything that is fast."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, List

import pytest
from commands import ROOT

from lamemo_fairseq.core import (
    attention,
    decoding,
    fast_decode,
    fused_attention,
    fused_side,
    fused_softmax,
    layer,
    network,
    positions,
    softmax,
    vocabulary,
)
from lamemo_fairseq.core.memory import KINDS

FOLDERS = ("lamemo_fairseq", "hydra_plugins", "scripts", "examples", "tests")
FILES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
SHELL = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "examples").rglob("*.sh")])
CORE = ROOT / "lamemo_fairseq" / "core"

#: what computes faster than its page reads; each names what it is compared with
FAST: List[Any] = [
    attention.RelativeAttention,
    decoding,
    fast_decode.FastDecodeLayer.decode_step,
    fused_attention.fused_attention,
    fused_side,
    fused_softmax.chunked_target_log_probs,
    layer.Layer.content_attention,
    network,
    positions.align,
    softmax.attend,
    vocabulary.AdaptiveHead.log_probs,
    vocabulary.AdaptiveHead.target_log_probs,
    *(importlib.import_module(kind.__module__) for name, kind in KINDS.items()),
]

#: files of the core in which nothing is faster than its page reads: what is plain, and what holds or shapes data
PLAIN = {
    *("__init__", "config", "documents", "errors", "free_memory", "memory/__init__", "pretrained", "probe"),
    *("kv_cache", "memory/base", "user_cache"),
}


def name_of(path: Path) -> str:
    """Its path in the checkout."""
    return path.relative_to(ROOT).as_posix()


def test_no_function_is_longer_than_a_screen() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} {node.name} has {length} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for length in [(node.end_lineno or 0) - node.lineno + 1]
        if length > 60
    ]
    assert not found, found


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*FILES, *SHELL]}
    found = {name: count for name, count in lengths.items() if count > 300}
    assert not found, found


def called(thing: Any) -> str:
    """The name by which a failure is known."""
    return thing.__name__ if isinstance(thing, ModuleType) else thing.__qualname__


def references(doc: str) -> List[str]:
    """The names in a docstring's words on its slow reference."""
    found = re.search(r"Slow\s+reference:\s(.+?)\.(?:\s|$)", doc, re.DOTALL)
    return [] if found is None else re.findall(r"``([^`]+)``", found[1])


def defined(name: str, paths: List[Path]) -> bool:
    """Whether one of the files defines a function of this name, in which * stands for anything."""
    pattern = re.escape(name.split(".")[-1]).replace(r"\*", r"\w*")
    return any(re.search(rf"^ *def {pattern}\(", path.read_text(encoding="utf-8"), re.MULTILINE) for path in paths)


@pytest.mark.parametrize("thing", FAST, ids=called)
def test_what_is_fast_names_its_slow_reference(thing: Any) -> None:
    """A file under tests/ that holds the reference, or compares with one that the core holds itself."""
    names = references(inspect.getdoc(thing) or "")
    files = [ROOT / name for name in names if "/" in name]
    assert any(name.startswith("tests/") for name in names), f"{called(thing)} names no file under tests/"
    assert all(path.is_file() for path in files), names
    for name in names:
        if "/" not in name:
            assert defined(name, [*files, *CORE.rglob("*.py")]), f"{called(thing)}: nothing is called {name}"


def test_every_file_of_the_core_is_plain_or_names_its_slow_reference() -> None:
    for path in CORE.rglob("*.py"):
        name = path.relative_to(CORE).with_suffix("").as_posix()
        said = re.search(r"low\s+reference", path.read_text(encoding="utf-8")) is not None
        assert said != (name in PLAIN), f"{name} names no slow reference, and is not among what is plain"


def test_a_reference_that_is_not_there_is_noticed() -> None:
    doc = "Fast. Slow reference: ``segment`` and ``no_such`` in\n``tests/reference.py``. Letters."
    assert references(doc) == ["segment", "no_such", "tests/reference.py"]
    files = [ROOT / "tests" / "reference.py"]
    assert defined("segment", files) and not defined("no_such", files) and defined("causal_*", files)
    assert references("Fast, and that is all.") == []
