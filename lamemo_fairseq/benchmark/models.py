"""What the parts of the benchmark share: models of one size, and how they are timed."""

import argparse
import resource
import time
from typing import Any, Sequence

import torch
from fairseq.data import Dictionary

from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder

DECODING = {
    "decoder_layers": 6,
    "decoder_embed_dim": 256,
    "decoder_attention_heads": 4,
    "decoder_ffn_embed_dim": 1024,
}
WORDS, STREAMS, SEGMENT = 1000, 4, 128


def sizes(options: argparse.Namespace) -> str:
    """The same in words, for a title."""
    return (
        f"6 layers, width 256, 4 heads, FFN 1024, vocabulary {WORDS}, {STREAMS} rows, segment {SEGMENT}, float32, "
        f"{options.device}, {options.threads} threads"
    )


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


def lower_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of ``values`` stays below."""
    return sorted(values)[len(values) // 4]
