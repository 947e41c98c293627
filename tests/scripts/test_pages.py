"""Every command of the README and of every page under examples/ is shell, and its flags are known ones."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/*.md"))]

#: how a command begins -> why it does not run here; it is parsed all the same
NOT_RUN = {
    "bash scripts/quickstart.sh": "installs; what it trains runs in test_readme.py",
    "bash scripts/test.sh": "runs these tests",
    "bash scripts/launch.sh -n 8": "eight GPUs; the launcher is tested in tests/training/test_ranks.py",
    "torchrun": "two machines",
    "srun": "SLURM",
    "lamemo benchmark": "measures for minutes; tested in test_benchmark.py",
    "lamemo push": "needs an account and a network; tested in tests/generation/test_hub.py",
    "lamemo study": "hours; tested in tests/study",
    "lamemo diagnose": "hours, or writes into the checkout; tested in tests/study",
    "more": "a function over lamemo study: hours",
    "bash scripts/gpu_check.sh": "measures for minutes; tested in test_benchmark.py",
    "tensorboard --logdir": "a server that runs until it is stopped; its files are read in test_logging.py",
    "wandb sync": "sends to a server; what it would send is looked at in test_logging.py",
    "gsutil": "Google's tool, and terabytes",
}


def blocks(page: Path) -> Iterator[str]:
    """The blocks of shell commands: marked as such, or not marked and beginning like a command."""
    for mark, body in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        starts = re.match(r"(bash|python|fairseq-|torchrun|lamemo|gsutil|tensorboard|wandb|#!)", body)
        if mark == "bash" or (mark == "" and starts):
            yield body


def commands(block: str) -> List[str]:
    """A block's commands, continued lines joined; comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip() and not line.startswith("#")]


def everything() -> List[Tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), line) for page in PAGES for block in blocks(page) for line in commands(block)]


def reason(command: str) -> List[str]:
    return [why for start, why in NOT_RUN.items() if command.startswith(start)]


def test_every_block_is_shell() -> None:
    for page in PAGES:
        for block in blocks(page):
            done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}: {done.stderr}"


def test_the_list_names_commands_that_stand_somewhere() -> None:
    found = [command for _, command in everything()]
    assert len(found) > 20
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in found), start


def test_flags_of_commands_that_do_not_run_are_known() -> None:
    """Of fairseq's commands among them: every flag is one that the plugin or fairseq has."""
    from fairseq import options
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.tasks import TASK_REGISTRY

    parser = options.get_training_parser()
    TASK_REGISTRY["memory_language_modeling"].add_args(parser)
    ARCH_MODEL_REGISTRY["lamemo_lm"].add_args(parser)
    known: Dict[str, object] = dict(parser._option_string_actions)
    optimizer = {"--adam-betas", "--warmup-updates", "--lr"}
    for page, command in everything():
        if reason(command) and ("fairseq-train" in command or "launch.sh" in command):
            words = shlex.split(command.replace("...", ""))
            flags = [word for word in words[words.index("--") + 1 if "--" in words else 2 :] if word.startswith("--")]
            assert set(flags) <= known.keys() | optimizer, f"{page}: {set(flags) - known.keys()}"
