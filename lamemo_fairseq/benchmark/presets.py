"""Training steps of the presets, timed on the device that is there; ``paper.py`` counts the same steps without one."""

import time
from typing import Any, Dict, List

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder
from ..plugin.presets import PRESETS
from .paper import COUNTED, FLOPS_PER_SECOND, SETTINGS, Setting, Symbols, Training

#: what a CPU is given, so that all of this runs anywhere: the smallest preset, two streams
SMALL: Dict[str, Setting] = {"lamemo_lm_small": Setting(streams=2, tokens=64, words=100)}
PAPER = {preset: SETTINGS[preset] for preset in COUNTED}
DTYPES = ("float32", "float16", "bfloat16")
HEAD = f"preset|memory type|type|ms/step|tok/s|TFLOP/s|of {FLOPS_PER_SECOND / 1e12:.0f}|peak MiB".split("|")


def wait_for(device: str) -> None:
    """All that was started is done."""
    if device != "cpu":
        torch.cuda.synchronize()


def measure_step(preset: str, setting: Setting, kind: str, dtype: str, device: str, repeats: int) -> Dict[str, Any]:
    """Seconds (lower quartile), operations and peak of a step: forward, loss and backward behind a full memory."""
    cfg = LaMemoConfig(**{**PRESETS[preset].model, "memory_type": kind})
    cfg.check()
    torch.manual_seed(0)
    decoder = LaMemoDecoder(cfg, Symbols(setting.words), setting.tokens).to(device, getattr(torch, dtype))
    training = Training(decoder, setting)
    with FlopCounterMode(display=False) as flops:
        training.step()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    times: List[float] = []
    for _ in range(max(4, repeats)):
        wait_for(device)
        began = time.perf_counter()
        training.step()
        wait_for(device)
        times.append(time.perf_counter() - began)
    peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated()
    return {"seconds": sorted(times)[len(times) // 4], "flops": flops.get_total_flops(), "peak": peak}


def rows(device: str, repeats: int) -> List[List[str]]:
    """The table that :data:`HEAD` begins, for look-ahead and recurrence."""
    table = []
    for preset, setting in (SMALL if device == "cpu" else PAPER).items():
        for kind in ("lookahead", "recurrence"):
            for dtype in DTYPES:
                found = measure_step(preset, setting, kind, dtype, device, repeats)
                rate, tokens = found["flops"] / found["seconds"], setting.streams * setting.tokens
                cells = (f"{found['seconds'] * 1e3:.1f}", f"{tokens / found['seconds']:.0f}", f"{rate / 1e12:.3g}")
                share = "-" if device == "cpu" else f"{rate / FLOPS_PER_SECOND:.1%}"
                peak = f"{found['peak'] / 2**20:.0f}" if found["peak"] else "-"
                table.append([preset, kind, dtype, *cells, share, peak])
    return table
