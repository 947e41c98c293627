"""Training steps of one model, eager and compiled in turns, beside the floor that the device itself sets.

The floor is the longer of two times: the step's products at the rate of a large matrix product, and the bytes that no
program can do without (``paper.floor_of_step``) at the rate of a copy. Both rates are measured on the device.
"""

import argparse
from dataclasses import dataclass
from typing import Any, Callable, Dict, List

import torch

from ..core.errors import UsageError
from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder
from .models import Sizes, clock, lower_quartile
from .paper import Setting, Symbols, Training, counting_products, floor_of_step
from .table import Table

MODES = ("eager", "compiled")
#: the rows and columns of the product, and the bytes of the copy, by which a device's rates are measured
PRODUCT, COPY = {"cpu": 512, "cuda": 8192}, {"cpu": 2**25, "cuda": 2**30}


@dataclass(frozen=True)
class Step:
    """What a step took: seconds, the floor's seconds, operations, tokens, most bytes held (0: not known).

    ``failed`` says why there is no step to time, and is empty where there is one.
    """

    seconds: float = 0.0
    floor: float = 0.0
    flops: int = 0
    tokens: int = 0
    peak: int = 0
    failed: str = ""

    def cells(self) -> List[str]:
        """The columns that :data:`CELLS` names."""
        if self.failed:
            return [self.failed, *["-"] * (len(CELLS) - 1)]
        return [
            f"{self.seconds * 1e3:.1f}",
            f"{self.tokens / self.seconds:.0f}",
            f"{self.flops / self.seconds / 1e12:.3g}",
            f"{self.floor * 1e3:.2f}",
            f"{self.floor / self.seconds:.1%}",
            f"{self.peak / 2**20:.0f}" if self.peak else "-",
        ]


CELLS = "ms/step|tok/s|TFLOP/s|floor ms|share of the floor|peak MiB".split("|")


def timed(device: str, action: Callable[[], Any]) -> float:
    """Seconds of an action, until the device is done with it."""
    began = clock(device)
    action()
    return clock(device) - began


def rates(device: str, dtype: torch.dtype) -> Dict[str, float]:
    """``flops`` and ``bytes`` per second that the device reaches in a large matrix product and a large copy."""
    rows, size = PRODUCT[device], COPY[device] // torch.empty((), dtype=dtype).element_size()
    one, flat = torch.randn(rows, rows, device=device).to(dtype), torch.zeros(size, dtype=dtype, device=device)
    other = torch.empty_like(flat)
    product = lower_quartile([timed(device, lambda: one @ one) for _ in range(6)])
    copy = lower_quartile([timed(device, lambda: other.copy_(flat)) for _ in range(6)])
    return {"flops": 2 * rows**3 / product, "bytes": 2 * flat.numel() * flat.element_size() / copy}


def floor_seconds(flops: int, decoder: LaMemoDecoder, setting: Setting, rate: Dict[str, float]) -> float:
    """The longer of the time of a step's products and of the bytes that no program can do without, at ``rates``."""
    return max(flops / rate["flops"], floor_of_step(decoder, setting) / rate["bytes"])


def measure(flags: Dict[str, Any], setting: Setting, dtype: str, device: str, repeats: int) -> Dict[str, Step]:
    """A step behind a full memory by mode: forward, loss and backward, each time the lower quartile.

    Where the device's memory is too small, or nothing can be compiled, the result says so in place of a time.
    """
    cfg = LaMemoConfig(**flags)
    cfg.check()
    torch.manual_seed(0)
    number = getattr(torch, dtype)
    try:
        decoder = LaMemoDecoder(cfg, Symbols(setting.words), setting.tokens).to(device, number)
        training = Training(decoder, setting)  # fills the memory, eagerly: one graph is made, not one per length
        with counting_products() as flops:
            training.step()
        rate = rates(device, number)
    except torch.cuda.OutOfMemoryError:
        return {mode: Step(failed="out of memory") for mode in MODES}
    operations = flops.get_total_flops()
    floor = floor_seconds(operations, decoder, setting, rate)
    failed: Dict[str, str] = {}
    seconds: Dict[str, List[float]] = {mode: [] for mode in MODES}
    peaks: Dict[str, int] = dict.fromkeys(MODES, 0)
    for turn in range(repeats + 1):
        for mode in MODES:
            if mode in failed:
                continue
            decoder.compiles = mode == "compiled"
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            try:
                took = timed(device, training.step)
            except (torch.cuda.OutOfMemoryError, UsageError) as error:
                failed[mode] = "out of memory" if isinstance(error, torch.cuda.OutOfMemoryError) else str(error)
                continue
            if turn > 0:  # the first one makes the graph
                seconds[mode].append(took)
                peaks[mode] = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
    tokens = setting.streams * setting.tokens
    return {
        mode: Step(failed=failed[mode])
        if mode in failed
        else Step(lower_quartile(seconds[mode]), floor, operations, tokens, peaks[mode])
        for mode in MODES
    }


def compare(options: argparse.Namespace) -> Table:
    """The layers eager and compiled, at the size of the other parts."""
    sizes: Sizes = options.sizes
    flags = {
        "decoder_layers": sizes.layers,
        "decoder_embed_dim": sizes.width,
        "decoder_attention_heads": sizes.heads,
        "decoder_ffn_embed_dim": sizes.ffn,
    }
    setting, rows, ratios = Setting(sizes.streams, sizes.segment, sizes.words), [], {}
    for kind in ("lookahead", "recurrence"):
        for memory in sizes.memories[:2]:
            for dropout in (0.0, 0.1):
                changes = {"memory_type": kind, "mem_len": memory, "dropout": dropout}
                found = measure({**flags, **changes}, setting, "float32", options.device, options.repeats)
                eager, compiled = (found[mode] for mode in MODES)
                if compiled.failed or eager.failed:
                    rows.append([kind, str(memory), f"{dropout}", eager.cells()[0], compiled.cells()[0], "-"])
                    continue
                ratio = compiled.seconds / eager.seconds
                ratios[f"train_compiled_over_eager_{kind}_mem{memory}_dropout{dropout}"] = ratio
                rows.append([kind, str(memory), f"{dropout}", eager.cells()[0], compiled.cells()[0], f"{ratio:.2f}"])
    return Table(
        f"compile: {sizes.title(options)}",
        ["memory type", "memory", "dropout", "eager ms", "compiled ms", "ratio"],
        rows,
        ratios,
    )
