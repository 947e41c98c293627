"""Every command of the README and of every page under examples/ is shell, and its flags are known ones; every link of
every Markdown file leads somewhere."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from commands import ROOT

from lamemo_fairseq.cli import main as cli

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
}


def blocks(page: Path) -> Iterator[str]:
    """The blocks of shell commands: marked as such, or not marked and beginning like a command."""
    for mark, body in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        starts = re.match(r"(bash|python|fairseq-|torchrun|lamemo|tensorboard|wandb|#!)", body)
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


def test_lamemo_commands_that_do_not_run_are_parsed() -> None:
    """By the command's own parser; the study's page has a function that stands for a part of its commands."""
    found = [command for _, command in everything() if reason(command)]
    (function,) = (command for command in found if command.startswith("more() {"))
    short = function[len("more() {") : -len("}")].strip(" ;")
    commands = [short.replace('"$@"', one[len("more ") :]) for one in found if one.startswith("more ")]
    commands += [one for one in found if one.startswith("lamemo ")]
    assert len(commands) > 15
    parsed = []
    for command in commands:
        _, name, *words = shlex.split(command, comments=True)
        parser = argparse.ArgumentParser(prog=command)
        cli.module_of(name).add_arguments(parser)
        parsed.append(parser.parse_args(words))
    assert all(parsed)


def links(page: Path) -> List[str]:
    """Links and pictures of a page, code left out, other than those into the web."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text)


def anchors(page: Path) -> List[str]:
    """What the headings of a page are called in a link, as GitHub makes it of their words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"[^\w -]", "", words).lower().replace(" ", "-") for words in re.findall(r"^#+ (.*)$", text, re.M)]


def test_every_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(page for top in ("examples", "tests") for page in (ROOT / top).rglob("*.md"))]
    found = [(page, link) for page in pages for link in links(page)]
    assert len(found) > 50 and any("#" in link for _, link in found)
    for page, link in found:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"
