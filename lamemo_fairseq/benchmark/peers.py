"""Training steps beside a peer that anyone can install: Hugging Face's TransfoXL, in turns with this package.

transformers gave TransfoXL up; its last version with it needs an environment of its own, which is made once and kept in
the user's cache. torch is not installed a second time: both sides run on the same one.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Dict, Sequence

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.user_cache import user_cache
from ..data.memory_store import MemoryStore
from ..plugin.decoder import LaMemoDecoder
from .models import Sizes, Times, lower_quartile, update
from .table import Table

#: the last with TransfoXL
TRANSFORMERS = "transformers==4.35.2"
KINDS = ("recurrence", "lookahead")
HEAD = "memory|TransfoXL ms|recurrence ms|ratio|look-ahead ms|ratio|CPU time: recurrence|CPU time: look-ahead"
#: steps per turn and --repeats: in the first after a change the caches are cold
TURN = 3


def environment(folder: Path) -> Path:
    """The Python of an environment with :data:`TRANSFORMERS` under ``folder``; made where it is not there yet."""
    version = f"py{sys.version_info.major}.{sys.version_info.minor}"
    home = folder / f"{TRANSFORMERS.replace('==', '-')}-{version}"
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists():
        print(f"peers: installing {TRANSFORMERS} into {home}", file=sys.stderr)
        venv.EnvBuilder(clear=True, with_pip=True).create(home)
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TRANSFORMERS]
        installed = subprocess.run(words, capture_output=True, text=True)
        if installed.returncode != 0:
            why = (installed.stderr.strip().splitlines() or ["no message"])[-1]
            raise UsageError(f"peers: pip could not install {TRANSFORMERS} ({why}): leave this part out, or go online")
        done.touch()
    packages = Path(str(torch.__file__)).parent.parent
    for site in (home / "lib").glob("python*/site-packages"):
        (site / "torch.pth").write_text(f"{packages}\n", encoding="utf-8")
    return python


class Peer:
    """A process that trains TransfoXL when asked.

    Args:
        command: starts it, without sizes.
        sizes: as ``peer_transfoxl.py`` takes them.
    """

    def __init__(self, command: Sequence[str], sizes: Dict[str, object]) -> None:
        self.command, words = " ".join(command), [*command, json.dumps(sizes)]
        warnings = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **warnings}
        )
        hello = self.answer()
        self.parameters, self.version = int(hello["parameters"]), str(hello["version"])

    def answer(self) -> Dict[str, Any]:
        """The next line of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UsageError(f"peers: {self.command} ended with {self.process.wait()}: see above")
        found: Dict[str, Any] = json.loads(line)
        return found

    def steps(self, count: int, times: Times) -> None:
        """``count`` steps more."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        found = self.answer()
        times.wall += found["seconds"]
        times.cpu += found["cpu_seconds"]

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


class Ours:
    """Training steps of this package, as ``peer_transfoxl.py`` takes them.

    Args:
        decoder: what is trained.
        sizes: of its segments.
    """

    def __init__(self, decoder: LaMemoDecoder, sizes: Sizes) -> None:
        self.decoder, self.sizes, self.store, self.segment = decoder.train(), sizes, MemoryStore("train"), 0
        self.parameters = sum(parameter.numel() for parameter in decoder.parameters())
        self.optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-4)
        self.steps(-(-decoder.memory.mem_len // sizes.segment) + 1, Times())

    def steps(self, count: int, times: Times) -> None:
        """``count`` steps more."""
        for _ in range(count):
            tokens, targets = torch.randint(4, self.sizes.words, (2, self.sizes.streams, self.sizes.segment))
            times.take("cpu", partial(self.step, tokens, targets))

    def step(self, tokens: Tensor, targets: Tensor) -> None:
        """A training step on the next segment."""
        scores, _ = self.decoder(tokens, store=self.store, segment=self.segment)
        update(self.decoder, self.optimizer, scores, targets)
        self.segment += 1


def compare(options: argparse.Namespace, command: Sequence[str]) -> Table:
    """Both kinds of memory beside the peer that ``command`` starts, step by step in turns."""
    sizes: Sizes = options.sizes
    rows, ratios, notes = [], {}, ""
    for memory in sizes.memories:
        wanted = {**asdict(sizes), "memory": memory, "dropout": 0.0, "threads": options.threads}
        peer = Peer(command, wanted)
        ours = {kind: Ours(sizes.model(options, memory, memory_type=kind, dropout=0.0), sizes) for kind in KINDS}
        times = {name: Times() for name in ("peer", *KINDS)}
        for _ in range(TURN * options.repeats):
            peer.steps(1, times["peer"])
            for kind in KINDS:
                ours[kind].steps(1, times[kind])
        peer.close()
        wall = {name: lower_quartile(found.wall) for name, found in times.items()}
        cpu = {name: lower_quartile(found.cpu) for name, found in times.items()}
        cells = [str(memory), f"{wall['peer'] * 1e3:.0f}"]
        for kind in KINDS:
            ratios[f"{kind}_over_transfoxl_mem{memory}"] = wall[kind] / wall["peer"]
            cells += [f"{wall[kind] * 1e3:.0f}", f"{wall[kind] / wall['peer']:.2f}"]
        rows.append((*cells, *(f"{cpu[kind] / cpu['peer']:.2f}" for kind in KINDS)))
        more = ", ".join(f"{ours[kind].parameters - peer.parameters:+d} {kind}" for kind in KINDS)
        notes = f"no dropout, transformers {peer.version} with {peer.parameters} parameters ({more})"
    return Table(f"peers: {sizes.title(options)}, {notes}", HEAD.split("|"), rows, ratios)


def peers(options: argparse.Namespace) -> Table:
    """Transformer-XL and look-ahead beside Hugging Face's TransfoXL."""
    if options.device != "cpu":
        raise UsageError(f"peers: measured on a CPU alone: leave out --device {options.device}")
    script = Path(__file__).with_name("peer_transfoxl.py")
    return compare(options, [str(environment(user_cache() / "peers")), str(script)])
