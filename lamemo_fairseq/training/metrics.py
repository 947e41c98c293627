"""Training metrics, as fairseq logs them: bits, mean alpha, size of the memory, peak memory.

They observe, and guard nothing. Numbers travel as logging outputs, which fairseq sums over micro-batches and ranks;
hence sums and counts.
"""

import resource
import sys
from typing import Any, Dict, List

import torch
from fairseq import utils
from fairseq.logging import metrics

from ..data.memory_store import MemoryStore

MIB = 2**20


def log_bits(characters: bool) -> None:
    """Logs the text's loss in base 2 as ``bits_per_token``, and as ``bpc`` where every token is one character.

    Args:
        characters: whether it is; :attr:`.Spelling.is_characters` says so, by which evaluation counts too.
    """
    metrics.log_derived("bits_per_token", bits_per_token)
    if characters:
        metrics.log_derived("bpc", bits_per_token)


def bits_per_token(meters: Any) -> float:
    """The logged loss per token, in base 2; without an auxiliary loss where one is kept apart."""
    meter = meters["nll_loss"] if "nll_loss" in meters else meters["loss"]
    return utils.item(torch.as_tensor(meter.avg))


def observe(store: MemoryStore, device: torch.device) -> Dict[str, Any]:
    """What one micro-batch adds to its logging output: the same keys on all ranks."""
    alphas = [alpha for left in store.held() for alpha in left.alphas if alpha.numel() > 0]
    total: Any = torch.stack([alpha.sum() for alpha in alphas]).sum() if alphas else torch.zeros((), device=device)
    return {
        "alpha_sum": total,
        "alpha_count": sum(alpha.numel() for alpha in alphas),
        "memory_bytes": store.bytes_held(),
        "peak_bytes": peak_bytes(device),
        "readings": 1,
    }


def updates_so_far() -> int:
    """The number of updates that fairseq has logged last."""
    return int(metrics.get_meter("train_inner", "num_updates").val)


def report(logging_outputs: List[Dict[str, Any]]) -> None:
    """Logs mean alpha (the weight of what the memory knew before it looked ahead), and MiB per rank."""

    def total(key: str) -> Any:
        return sum(output[key] for output in logging_outputs)

    readings, count = total("readings"), total("alpha_count")
    if count > 0:
        metrics.log_scalar("alpha", total("alpha_sum") / count, count, priority=200, round=4)
    metrics.log_scalar("memory_mib", total("memory_bytes") / readings / MIB, 1, priority=1510, round=2)
    metrics.log_scalar("peak_mib", total("peak_bytes") / readings / MIB, 1, priority=1520, round=1)


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has used: on the GPU since the last update, else since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
