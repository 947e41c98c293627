"""Where a line lives: what the floors' contract in ``pyproject.toml`` cannot say, read from the code itself."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest
from commands import ROOT
from test_shape import FILES, name_of

from lamemo_fairseq.core.encodings import ENCODINGS
from lamemo_fairseq.core.memory import KINDS, MemoryOptions

PACKAGE = ROOT / "lamemo_fairseq"
TREES: Dict[str, ast.Module] = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
OURS = {name: tree for name, tree in TREES.items() if not name.startswith("tests/")}
#: folders of tests that follow no folder of the package
OTHER_TESTS = {"scripts", "fuzz", "golden", "checkpoints", "mutation"}
#: what runs before an install, and what makes files from a table of the package
OWN_SCRIPTS = {"quickstart.py", "write_configs.py"}


#: names of before, for which the field has words; as keys, checkpoints keep some of them
GONE = {
    *("Stream", "Recall", "Beyond", "Pass", "OpenSegment", "Plan", "Tally", "Accounted"),
    *("absorb", "advance", "again", "bottom", "bumps", "carried", "climb", "cold", "cuts", "extend_chunk", "falling"),
    *("from_all", "memory_to_first", "nearest", "read_on", "settle", "shortage", "survive", "trained_apart", "turned"),
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported, without the dots of relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names)


def names_of(tree: ast.AST, *roots: str) -> Set[str]:
    """The names by which a file knows what it imports of the packages ``roots``."""
    found: Set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in roots:
            found |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name for alias in node.names if alias.name.split(".")[0] in roots}
    return found


def patched(tree: ast.AST, *roots: str) -> List[str]:
    """Attributes of what comes from ``roots`` that a file sets."""
    known, found = names_of(tree, *roots), []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        found += [ast.unparse(one) for one in targets if isinstance(one, ast.Attribute)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            found.append(ast.unparse(node.args[0]) + ".?")
    return [name for name in found if name.split(".")[0] in known]


def where_called(*names: str) -> Set[str]:
    """Files of ours that call a method of one of these names."""
    return {
        name
        for name, tree in OURS.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
    }


def where_defined(*names: str) -> Set[str]:
    """Files of ours that define a function or class of one of these names, outside of another."""
    return {name for name, tree in OURS.items() for node in tree.body if getattr(node, "name", "") in names}


def test_old_words_name_nothing_any_more() -> None:
    for name, tree in OURS.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.alias):
                continue  # a name that others gave
            said = {getattr(node, attribute, None) for attribute in ("name", "arg", "id", "attr")}
            assert not said & GONE, f"{name}:{getattr(node, 'lineno', '')}"


def test_tests_follow_the_folders_of_the_package() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and "__pycache__" not in path.name}
    assert tests == folders | OTHER_TESTS
    assert not list((ROOT / "tests").glob("test_*.py")), "helpers alone stand above the folders"
    assert not {"models", "tasks"} & folders, "fairseq imports folders of these names on its own"


def test_scripts_run_before_an_install_or_are_thin() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        if path.name not in OWN_SCRIPTS:
            assert re.search(r"old_spelling\(|sys\.exit\(main\(\[", path.read_text(encoding="utf-8")), path.name
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 12, path.name


def test_what_patches_fairseq_stands_in_one_file() -> None:
    found = {name: patched(tree, "fairseq", "fairseq_cli") for name, tree in OURS.items()}
    patching = {name for name, what in found.items() if what}
    assert patching == {"lamemo_fairseq/plugin/fairseq_patches.py"}, found
    assert len(found["lamemo_fairseq/plugin/fairseq_patches.py"]) > 8


def test_a_patch_elsewhere_is_noticed() -> None:
    code = "from fairseq import search\nfrom fairseq.logging import metrics as m\nsearch.step = m.log = m.x.y = 1\n"
    assert patched(ast.parse(code + "setattr(search, 'z', 2)\nother.step = 3"), "fairseq") == [
        *("search.step", "m.log", "m.x.y", "search.?")
    ]


def test_a_training_step_is_one_transaction_in_one_place() -> None:
    """Fairseq's trainer begins it where it clears gradients; resuming reads segments in one of its own."""
    step, resume = "lamemo_fairseq/training/train_step.py", "lamemo_fairseq/training/resume.py"
    assert where_called("commit", "roll_back") == {step, resume}
    begins = {name for name in where_called("begin") if name.split("/")[1] in ("training", "plugin")}
    assert begins == {resume, "lamemo_fairseq/plugin/fairseq_patches.py"}
    assert where_defined("check_room", "TrainingMemory") == {step}


def test_metrics_observe_and_guard_nothing() -> None:
    tree = OURS["lamemo_fairseq/training/metrics.py"]
    assert not any(isinstance(node, (ast.Raise, ast.Assert, ast.Try)) for node in ast.walk(tree))
    assert not {name for name in imported(tree) if "errors" in name or "train_step" in name}


def test_names_of_position_encodings_are_compared_nowhere() -> None:
    """Kinds, presets and the authors' table list them; what they mean is asked of the encoding."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in OURS.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Compare, ast.Match if hasattr(ast, "Match") else ast.Compare))
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in ENCODINGS
    ]
    assert not found, found


def test_layers_never_receive_the_whole_configuration() -> None:
    """In the core it is known to the model that is made from it, and to what reads and writes it."""
    whole = {
        name
        for name, tree in OURS.items()
        if {"ModelConfig", "LaMemoConfig"} & {n.split(".")[-1] for n in imported(tree)}
    }
    core = {name.removeprefix("lamemo_fairseq/core/") for name in whole if name.startswith("lamemo_fairseq/core/")}
    assert core == {"__init__.py", "network.py", "pretrained.py"}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_owns_its_options_and_imports_no_other(name: str) -> None:
    kind = KINDS[name]
    path = inspect.getsourcefile(kind)
    assert path is not None and Path(path).parent == PACKAGE / "core" / "memory"
    others = {other.__module__.split(".")[-1] for other in KINDS.values()} - {Path(path).stem}
    assert not {part for full in imported(OURS[name_of(Path(path))]) for part in full.split(".")} & others
    if kind.options_class is not MemoryOptions:
        assert inspect.getsourcefile(kind.options_class) == path and "check" in vars(kind.options_class)
    for option in dataclasses.fields(kind.options_class):
        assert option.metadata["help"]
    flags, shared = (
        {option.name for option in dataclasses.fields(kind.options_class)},
        OURS["lamemo_fairseq/core/config.py"],
    )
    for tree in [shared, *(tree for file, tree in OURS.items() if file.startswith("lamemo_fairseq/plugin/"))]:
        fields = {
            node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        assert not flags & (fields | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)})


def test_one_log_parser_one_codec_of_characters_one_plotting_module() -> None:
    assert where_defined("read_log", "read_training", "record") >= {"lamemo_fairseq/study/curves.py"}
    walls = {
        name
        for name, tree in OURS.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ("train_wall", "valid_num_updates")
    }
    assert walls == {"lamemo_fairseq/study/curves.py"}, "what tells fairseq's log lines apart"
    assert where_defined("encode_character", "decode_token", "TextCharacters") == {"lamemo_fairseq/data/characters.py"}
    draws = {name for name, tree in OURS.items() if any(full.startswith("matplotlib") for full in imported(tree))}
    assert draws == {"lamemo_fairseq/evaluation/plotting.py"}
