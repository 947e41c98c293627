"""What the parts of the benchmark share: models of one size, and how they are timed."""

import argparse
import resource
import time
from dataclasses import dataclass, field
from typing import Any, Callable, List, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder


@dataclass(frozen=True)
class Sizes:
    """Of what the parts on a CPU compare: the model, B ``streams`` of N = ``segment`` tokens, and memory lengths."""

    layers: int = 6
    width: int = 256
    heads: int = 4
    ffn: int = 1024
    words: int = 1000
    streams: int = 4
    segment: int = 128
    memories: Tuple[int, ...] = (128, 512, 1024)

    def model(self, options: argparse.Namespace, memory: int, **flags: Any) -> LaMemoDecoder:
        """An untrained decoder that remembers ``memory`` tokens."""
        segment = flags.pop("segment", self.segment)
        return model(
            self.words,
            segment,
            options.device,
            mem_len=memory,
            decoder_layers=self.layers,
            decoder_embed_dim=self.width,
            decoder_attention_heads=self.heads,
            decoder_ffn_embed_dim=self.ffn,
            **flags,
        )

    def title(self, options: argparse.Namespace) -> str:
        """The same in words."""
        return (
            f"{self.layers} layers, width {self.width}, {self.heads} heads, FFN {self.ffn}, vocabulary {self.words}, "
            f"{self.streams} streams, segment {self.segment}, float32, {options.device}, {options.threads} threads"
        )


#: as the ratios' names mean it
STANDARD = Sizes()
#: shows that a part runs, and nothing about speed
TINY = Sizes(layers=2, width=16, heads=2, ffn=32, words=50)


def dictionary_of(size: int) -> Dictionary:
    """A dictionary of ``size`` symbols."""
    dictionary = Dictionary()
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary


def model(size: int, segment: int, device: str, **flags: Any) -> LaMemoDecoder:
    """An untrained decoder for ``size`` symbols, in evaluation mode: speed does not depend on weights."""
    torch.manual_seed(0)
    cfg = LaMemoConfig(**flags)
    cfg.check()
    return LaMemoDecoder(cfg, dictionary_of(size), segment).to(device).eval()


def update(model: nn.Module, optimizer: torch.optim.Optimizer, scores: Tensor, targets: Tensor) -> None:
    """The rest of a training step, from ``scores`` [B, N, V] on: loss, backward, clipping, the optimizer's step."""
    nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()


def clock(device: str) -> float:
    """Seconds; on a GPU, after all that was started is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_megabytes(device: str) -> float:
    """The most memory that was held so far: of the GPU, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts kilobytes


@dataclass
class Times:
    """Seconds of steps, on the wall's clock and of all threads together."""

    wall: List[float] = field(default_factory=list)
    cpu: List[float] = field(default_factory=list)

    def take(self, device: str, step: Callable[[], Any]) -> None:
        """Does a step, and notes its times."""
        began, worked = clock(device), time.process_time()
        step()
        self.wall.append(clock(device) - began)
        self.cpu.append(time.process_time() - worked)


def lower_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of ``values`` stays below."""
    return sorted(values)[len(values) // 4]
