"""Runs fairseq's commands as processes that can be killed, without five seconds of imports for each.

A server process imports torch, fairseq and the plugin once; each command is a fork of it that runs the command's own
main function with its own arguments, environment and output file. Nothing of fairseq or torch is replaced.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = str(ROOT / "lamemo_fairseq")

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "commands_preloaded"])


def run_command(module: str, arguments: Sequence[str], output: str, environment: Dict[str, str]) -> None:
    """In the fork: the command ``module`` with ``arguments``, its output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # What the server has imported holds its own streams, which write to the same numbers.
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    code = 0
    try:
        limit = environment.get("TEST_FILE_SIZE_LIMIT")
        if limit is not None:  # a disk that is full, as far as this process can tell
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
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

    def __init__(self, module: str, arguments: Sequence[str], output: Path, **environment: str) -> None:
        self.output = output
        self.start = len(self.text())
        self.process = context.Process(
            target=run_command, args=(module, [str(a) for a in arguments], str(output), environment)
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
        return int(self.process.exitcode)

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


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train(
    data: object, save_dir: object, *flags: object, ranks: int = 1, rank_flags: Optional[List[List[object]]] = None
) -> List[Command]:
    """Starts ``fairseq-train`` on each of ``ranks`` processes; the tests' small model where flags say nothing else."""
    save_dir = Path(str(save_dir))
    save_dir.parent.mkdir(parents=True, exist_ok=True)
    base = [
        *(data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--arch", "lamemo_lm", "--cpu"),
        *("--decoder-layers", 2, "--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32),
        *("--decoder-attention-heads", 2, "--mem-len", 12, "--dropout", 0.1, "--attention-dropout", 0.1),
        *("--tokens-per-sample", 8, "--batch-size", 4, "--optimizer", "adam", "--lr", 0.01, "--clip-norm", 0.25),
        *("--log-format", "json", "--log-interval", 1, "--num-workers", 0, "--save-dir", save_dir),
        *("--no-progress-bar", "--disable-validation"),
        *flags,
    ]
    if ranks == 1:
        return [Command("train", base, save_dir.parent / f"{save_dir.name}.log", OMP_NUM_THREADS="1")]
    meeting = [
        *("--distributed-world-size", ranks, "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}"),
        *("--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
    ]
    return [
        Command(
            "train",
            [*base, *meeting, "--distributed-rank", rank, *(rank_flags[rank] if rank_flags else [])],
            save_dir.parent / f"{save_dir.name}.{rank}.log",
            OMP_NUM_THREADS="1",
        )
        for rank in range(ranks)
    ]
