"""Runs fairseq's commands as processes that can be killed, without five seconds of imports for each.

A server process imports torch, fairseq and the plugin once; each command is a fork of it that runs the command's own
main function with its own arguments, environment and output file. Nothing of fairseq or torch is replaced.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from lamemo_fairseq.study.curves import read_losses as losses  # noqa: F401  (what tests read logs with)

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = str(ROOT / "lamemo_fairseq")

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["commands_preloaded"])


def start_server() -> None:
    """Starts the server where it is not running."""
    before = dict(os.environ)
    # One thread per process: threads that the server had started would not survive a fork.
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    # It finds modules by this variable alone, and passes over those that it does not find.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_command(
    module: str, arguments: Sequence[str], output: str, environment: Dict[str, str], stdin: Optional[str]
) -> None:
    """In the fork: the command ``module`` with ``arguments``, its output in a file, its input from one."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if stdin is not None:
        sys.stdin = open(stdin, encoding="utf-8")
    # What the server has imported holds its own streams, which write to the same numbers.
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    multiprocessing.set_start_method("fork", force=True)  # for what the command starts, as without the server
    code = 0
    try:
        limit = environment.get("TEST_FILE_SIZE_LIMIT")
        if limit is not None:  # a disk that is full, as far as this process can tell
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        for name in environment.get("TEST_WITHOUT", "").split():  # packages, as if they were not installed
            sys.modules[name] = None  # type: ignore[assignment]
        main = __import__(f"fairseq_cli.{module}", fromlist=["cli_main"])
        main.cli_main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        code = 1
        try:
            sys.excepthook(*sys.exc_info())
        except BaseException:
            traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Command:
    """A running command of fairseq (``train``, ``preprocess``, ``eval_lm`` ...)."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        output: Path,
        stdin: Optional[Path] = None,
        **environment: str,
    ) -> None:
        self.output = output
        self.start = len(self.text())
        start_server()
        self.process = context.Process(
            target=run_command,
            args=(module, [str(a) for a in arguments], str(output), environment, stdin and str(stdin)),
        )
        self.process.start()

    def text(self) -> str:
        """The output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def own_text(self) -> str:
        """The output of this run, where an earlier one wrote to the same file."""
        return self.text()[self.start :]

    def kill(self) -> None:
        """SIGKILL: nothing is cleaned up."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def wait(self, seconds: float = 120) -> int:
        """The exit status."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.own_text()[-3000:]}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def succeed(self, seconds: float = 120) -> str:
        """The output of a command that must not fail."""
        code = self.wait(seconds)
        assert code == 0, f"exit status {code}:\n{self.own_text()[-4000:]}"
        return self.own_text()

    def fail(self, seconds: float = 120) -> str:
        """The output of a command that must fail."""
        assert self.wait(seconds) != 0, self.own_text()[-3000:]
        return self.own_text()

    def wait_for(self, words: str, seconds: float = 60) -> bool:
        """Whether ``words`` were written while the command ran."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if words in self.own_text():
                return True
            if not self.process.is_alive():
                return words in self.own_text()
            time.sleep(0.005)
        return False


def shell(command: str, folder: Path, timeout: float, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A line of bash in ``folder``, with this environment's programs; standard error goes where the output goes."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def english(words: int, skip: int = 0) -> List[str]:
    """Lines of real text: Python's own reference manual, which every Python brings along."""
    from pydoc_data import topics

    text = " ".join(text for _, text in sorted(topics.topics.items())).split()[skip : skip + words]
    return [" ".join(text[first : first + 12]) for first in range(0, len(text), 12)]


def preprocess(directory: Path, train_words: int, valid_words: int = 120, skip: int = 0) -> Path:
    """A data directory of real text."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "train.txt").write_text("\n".join(english(train_words, skip)))
    (directory / "valid.txt").write_text("\n".join(english(valid_words, 5000)))
    prefixes = ["--trainpref", directory / "train.txt", "--validpref", directory / "valid.txt"]
    flags = [*("--only-source", "--thresholdsrc", 2, "--workers", 1), *prefixes, "--destdir", directory / "bin"]
    Command("preprocess", flags, directory / "preprocess.log").succeed()
    return directory / "bin"


def load(path: object) -> Dict[str, Any]:
    """A checkpoint, as anybody may load it."""
    return torch.load(str(path), weights_only=True)


def assert_same_training(one: object, other: object) -> None:
    """Weights and optimizer state are equal, bit for bit."""
    first, second = load(one), load(other)
    assert first["model"].keys() == second["model"].keys()
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), f"{name} differs"
    state, other_state = first["last_optimizer_state"]["state"], second["last_optimizer_state"]["state"]
    for number, moments in state.items():
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other_state[number][name])), (number, name)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train(
    data: object,
    save_dir: object,
    *flags: object,
    ranks: int = 1,
    rank_flags: Optional[List[List[object]]] = None,
    disable_validation: bool = True,
    output: Optional[Path] = None,
    cpu: bool = True,
    **environment: str,
) -> List[Command]:
    """Starts ``fairseq-train`` on each of ``ranks`` processes; the tests' small model where flags say nothing else."""
    save_dir = Path(str(save_dir))
    if output is None:
        save_dir.parent.mkdir(parents=True, exist_ok=True)
        output = save_dir.parent / f"{save_dir.name}.log"
    base: List[object] = [
        *(data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--arch", "lamemo_lm"),
        *(["--cpu"] if cpu else []),
        *("--decoder-layers", 2, "--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32),
        *("--decoder-attention-heads", 2, "--mem-len", 12, "--dropout", 0.1, "--attention-dropout", 0.1),
        *("--tokens-per-sample", 8, "--batch-size", 4, "--optimizer", "adam", "--lr", 0.01, "--clip-norm", 0.25),
        *("--log-format", "json", "--log-interval", 1, "--num-workers", 0, "--save-dir", save_dir),
        *(["--disable-validation"] if disable_validation else []),
        *flags,
    ]
    if ranks == 1:
        return [Command("train", base, output, None, **environment)]
    meeting: List[object] = [
        *("--distributed-world-size", ranks, "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}"),
        *("--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
    ]
    return [
        Command(
            "train",
            [*base, *meeting, "--distributed-rank", rank, *(rank_flags[rank] if rank_flags else [])],
            output.with_suffix(f".{rank}.log"),
            None,
            **environment,
        )
        for rank in range(ranks)
    ]
