"""Every command of every page runs: as it stands there, but for the changes that ``CHANGES`` states.

Each page is one shell in a scratch copy of the checkout; they share a small corpus and two models that were trained on
it. Commands that cannot run here are those of ``test_pages.NOT_RUN``, each with its reason; pages whose commands have
a test of their own are in ``ELSEWHERE``.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, Tuple

import pytest
from commands import ROOT, shell
from conftest import TINY, run
from reference_authors import GOLDEN
from test_pages import PAGES, blocks, commands, reason

#: page -> the test that runs each of its commands
ELSEWHERE = {
    "examples/finetuning/README.md": "tests/data/test_finetuning.py",
    "examples/generation/README.md": "tests/generation/test_generate_commands.py",
    "examples/logging/README.md": "tests/scripts/test_logging.py",
    "examples/how_it_works/README.md": "tests/scripts/test_how_it_works.py",
    "examples/new_memory/README.md": "tests/core/test_new_memory.py",
    "examples/wikitext-103/README.md": "tests/scripts/test_recipes.py",
    "examples/enwik8/README.md": "tests/scripts/test_recipes.py",
    "examples/text8/README.md": "tests/scripts/test_recipes.py",
    "examples/pg19/README.md": "tests/scripts/test_recipes.py",
}

SMALL = "model.decoder_layers=1 model.decoder_embed_dim=16 model.decoder_ffn_embed_dim=16 model.mem_len=16"
SHORT = "optimization.max_update=2 dataset.batch_size=4 task.tokens_per_sample=16 common.cpu=true"

#: what a command is changed by before it runs: pattern, replacement, and why
CHANGES: List[Tuple[str, str, str]] = [
    (r"--max-update \d+", "--max-update 3 --cpu", "seconds in place of minutes"),
    (r"--updates \d+", "--updates 3", "the same"),
    (r"^(lamemo prepare shakespeare .*)", r"\1 --offline", "nothing is fetched"),
    (
        r"^(fairseq-hydra-train .*)",
        rf"\1 {SMALL} model.decoder_attention_heads=2 model.decoder_head_dim=8 {SHORT} dataset.num_workers=0 "
        "hydra.run.dir=$PWD/hydra",
        "a model of two thousand weights, two updates; relative paths are seen from the folder that hydra makes",
    ),
    (r"^(lamemo export runs/quickstart.*)", r"\1 --bpe text_characters", "the corpus here does not say what it is"),
    (r"\bTEXT\b", "TRAIN.txt", "a text"),
    (r"\bCHECKPOINTS\b", "runs/quickstart/lamemo", "a training's folder"),
    (r"--mem-len 0 32 64 128 256", "--mem-len 0 32", "two figures in place of five"),
]


def name_of(page: Path) -> str:
    """Its path in the checkout."""
    return page.relative_to(ROOT).as_posix()


def changed(command: str) -> str:
    """A page's command, as it runs here."""
    for pattern, replacement, _ in CHANGES:
        command = re.sub(pattern, replacement, command)
    return command


def to_run(page: Path) -> List[str]:
    """The commands of a page that run here."""
    found = [command for block in blocks(page) for command in commands(block)]
    # The README's first lines of a session: the environment that runs the tests is the one.
    return [one for one in found if not reason(one) and not one.startswith("source ")]


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """A checkout with texts, and the quickstart's corpus and models in small."""
    for name in ("lamemo_fairseq", "scripts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for split in ("TRAIN", "VALID", "TEST"):
        text = (corpus.parent / f"{split.lower()}.txt").read_text(encoding="utf-8")
        (tmp_path / f"{split}.txt").write_text(text.replace(" ", "").replace("_", " "), encoding="utf-8")
    (tmp_path / "THEIRS.pt").write_bytes((GOLDEN / "lamemo.pt").read_bytes())
    (tmp_path / "runs/quickstart/corpus").mkdir(parents=True)
    (tmp_path / "runs/quickstart/corpus/data-bin").symlink_to(corpus)
    for name, kind in (("lamemo", "lookahead"), ("transformer-xl", "recurrence")):
        flags = [*TINY, "--tokens-per-sample", 64, "--mem-len", 64, "--memory-type", kind, "--max-update", 6]
        done = run("train", corpus, *flags, "--save-dir", tmp_path / "runs" / "quickstart" / name)
        (tmp_path / "runs" / "quickstart" / name / "train.log").write_text(done.stdout, encoding="utf-8")
    return tmp_path


def failures(page: Path, folder: Path) -> List[str]:
    """What does not run of a page, with the end of what it printed."""
    found = []
    for command in map(changed, to_run(page)):
        done = shell(command, folder, timeout=120)
        if done.returncode != 0:
            found.append(f"{name_of(page)}: {command}\n{done.stdout[-2000:]}")
    return found


@pytest.mark.slow  # twenty processes that import fairseq anew
def test_every_command_runs(folder: Path) -> None:
    here = [page for page in PAGES if name_of(page) not in ELSEWHERE]
    with ThreadPoolExecutor(2) as pool:
        found = [one for page in pool.map(lambda page: failures(page, folder), here) for one in page]
    assert not found, "\n".join(found)
    for made in ("mine/lamemo/checkpoint_best.pt", "imported/checkpoint.pt", "evaluation", "shakespeare/lamemo"):
        assert (folder / "runs" / made).exists(), made


def test_no_command_is_left_out() -> None:
    counts = {name_of(page): len(to_run(page)) for page in PAGES}
    assert sum(counts.values()) > 25
    for name, test in ELSEWHERE.items():
        assert counts[name] > 0, f"{name} has no commands"
        words = (ROOT / test).read_text(encoding="utf-8")
        parts = " / ".join(f'"{part}"' for part in name.split("/"))
        assert parts in words, f"{test} does not read {name}"


def test_every_change_changes_something() -> None:
    everything = [command for page in PAGES for command in to_run(page)]
    for pattern, _, why in CHANGES:
        assert any(re.search(pattern, command) for command in everything), (pattern, why)
