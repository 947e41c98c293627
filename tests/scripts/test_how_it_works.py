"""The page on how it works: its tables and figures are what the code computes now, and its words hold no other number.

The tables are computed twice: by the page's program from the package's code, and here from the rules alone.
"""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Dict, List

from commands import ROOT
from reference import ReferenceConfig, look_ahead_keys

PATH = ROOT / "examples" / "how_it_works" / "README.md"
PAGE, FOLDER = PATH.read_text(encoding="utf-8"), PATH.parent
PROGRAM = FOLDER / "make_figures.py"

END = "&lt;/s&gt;"

#: the sentences of the page that hold a number -> what it is made from, in the program's own sizes
SENTENCES = (
    "on a text of {TOTAL} tokens",
    "the text is read in {STREAMS} streams, a segment has {TOKENS} tokens, "
    "and the memory holds {MEM_LEN} slots at most",
    "each of the {TOTAL} tokens is predicted once",
    "with {layers} layers, width {dim} and {heads} heads, {STREAMS} streams side by side",
    "Put the memory at positions 0 to M - 1",
    "where M = {MEM_LEN} and A = {TOKENS}",
    "With one head of width 1 and numbers",
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_figures", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables() -> Dict[str, List[List[str]]]:
    """The page's tables by their first line; without that line, and as cells."""
    found: Dict[str, List[List[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found[" | ".join(head)] = body
    return found


def tokens(cell: str) -> List[int]:
    """Numbers of tokens, -1 for the symbol before the text."""
    return [-1 if word == END else int(word) for word in cell.split() if word != "pad"]


def test_tables_and_figures_are_what_the_program_makes(tmp_path: Path) -> None:
    [command] = re.findall(r"^python (\S+\.py)$", PAGE, re.MULTILINE)  # written elsewhere: not what is compared
    done = subprocess.run(
        [sys.executable, str(ROOT / command), "--dest", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.strip().split("\n\n")
    assert len(printed) == 5
    for table in printed:
        assert f"\n\n{table}\n\n" in PAGE, table
    made = sorted(tmp_path.iterdir())
    assert [figure.name for figure in made] == sorted(figure.name for figure in FOLDER.glob("*.svg"))
    for figure in made:
        assert figure.read_bytes() == (FOLDER / figure.name).read_bytes(), figure.name
        assert f"]({figure.name})" in PAGE


def test_every_table_is_the_programs_or_names_files() -> None:
    *computed, files = tables().items()
    assert [head for head, _ in computed] == list(load().tables())
    for _, code, slow in files[1]:
        names = re.findall(r"`([^`]+)`", f"{code} {slow}")
        paths = [name for name in names if "/" in name]
        for name in names:
            if "/" in name:
                assert (ROOT / name).exists(), name
            else:
                assert f"def {name}(" in (ROOT / paths[-1]).read_text(encoding="utf-8"), name


def test_each_token_is_predicted_once_from_the_one_before() -> None:
    predicted: List[int] = []
    for _, _, reads, predicts in tables()["segment | stream | reads | predicts"]:
        assert [token + 1 for token in tokens(reads)] == tokens(predicts)
        assert len(reads.split()) == len(predicts.split()) == load().TOKENS
        predicted += tokens(predicts)
    assert sorted(predicted) == list(range(load().TOTAL))


def test_the_memory_holds_what_was_read_last() -> None:
    program, cut = load(), tables()["segment | stream | reads | predicts"]
    for number, size, written, *streams in tables()["after segment | M | A | stream 0 holds | stream 1 holds"]:
        for stream, holds in enumerate(streams):
            read = [line[2].split() for line in cut if int(line[0]) <= int(number) and line[1] == str(stream)]
            assert holds.split() == sum(read, [])[-program.MEM_LEN :]
            assert len(holds.split()) == int(size) and len(read[-1]) == int(written)


def test_each_key_is_seen_once_and_none_is_left_out() -> None:
    head, body = next((head, body) for head, body in tables().items() if head.startswith("token |"))
    assert head.count("in segment") == len(body[0]) - 1
    for token, *segments in body:
        seen = [key for cell in segments if cell != "not read yet" for key in tokens(cell)]
        first_current = tokens(tables()["segment | stream | reads | predicts"][-2][2])[0]
        assert seen == list(range(-1, first_current + 1)), token


def test_the_figure_shows_the_rule_and_its_distances() -> None:
    """Read from the figure itself, cell by cell, against the slow program's rule."""
    program, figure = load(), (FOLDER / "attention.svg").read_text(encoding="utf-8")
    pattern = r"<rect x='(\d+)' y='(\d+)' width='44' height='28' fill='(#\w+)' stroke='#888'/><text [^>]*>(\d*)</text>"
    found = {(int(y), int(x)): (colour, text) for x, y, colour, text in re.findall(pattern, figure)}
    keys, memory, written = program.MEM_LEN + program.TOKENS, program.MEM_LEN, program.TOKENS
    assert len(found) == keys * keys
    cfg = ReferenceConfig(1, 1, 1, 1, 1, 1, mem_len=memory)
    for place, (_, (colour, text)) in enumerate(sorted(found.items())):
        i, j = divmod(place, keys)
        seen = look_ahead_keys(cfg, i, memory, written).tolist() if i < memory else list(range(i + 1))
        assert text == (str(abs(i - j)) if j in seen else ""), (i, j)
        assert colour == (program.WHITE if j not in seen else program.BLUE if j <= i else program.ORANGE)


def test_interpolation_by_hand() -> None:
    body = tables()["what | scores | values | lse | output | alpha"]

    def direct(scores: List[float], values: List[float]) -> "tuple[float, float]":
        weights = [math.exp(score) for score in scores]
        return math.log(sum(weights)), sum(w * v for w, v in zip(weights, values)) / sum(weights)

    def numbers(cell: str) -> List[float]:
        return [float(word) for word in cell.split()]

    before = {2: direct([0, 1], [1, 2]), 3: direct([0, 1, 2], [1, 2, 4])}
    for place, (what, scores, values, lse, output, alpha) in enumerate(body):
        expected, result = direct(numbers(scores), numbers(values))
        if place in before:
            old, held = before[place]
            part = math.exp(old) / (math.exp(old) + math.exp(expected))
            assert alpha == f"{part:.4f}", what
            result, expected = part * held + (1 - part) * result, math.log(math.exp(old) + math.exp(expected))
        assert (lse, output) == (f"{expected:.4f}", f"{result:.4f}"), what
    assert body[3][3:5] == body[4][3:5], "continuing twice is one softmax over all"


def test_shapes_follow_from_the_sizes() -> None:
    program, body = load(), tables()["kind | tensor | shape"]
    sizes = program.SIZES
    streams, memory, heads = program.STREAMS, program.MEM_LEN, sizes["heads"]
    wide = f"{streams} x {memory} x {sizes['dim']}"
    per_head = f"{streams} x {heads} x {memory}"
    expected = [["lookahead", "embeddings", wide]]
    for layer in range(sizes["layers"] - 1):
        expected.append(["lookahead", f"output{layer}", f"{per_head} x {sizes['dim'] // heads}"])
        expected.append(["lookahead", f"lse{layer}", per_head])
    expected += [["recurrence", f"layer{layer}", wide] for layer in range(sizes["layers"])]
    assert body == expected


def test_words_hold_no_number_that_is_not_checked() -> None:
    program = load()
    left = re.sub(r"^```.*?^```", "", PAGE, flags=re.M | re.S)
    left = re.sub(r"^\|.*$|arXiv [\d.]+|equations 5 to 7", "", left, flags=re.M)
    left = re.sub(r"`[^`]*`", "", " ".join(left.split()))
    for sentence in SENTENCES:
        said = sentence.format(**{**vars(program), **program.SIZES})
        assert said in left, said
        left = left.replace(said, "")
    assert not re.findall(r".{20}\d.{0,20}", left.replace("last segment of stream 0", "")), (
        "a number that no test holds"
    )
