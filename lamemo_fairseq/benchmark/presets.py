"""Training steps of the presets, timed on the device that is there; ``paper.py`` counts the same steps without one."""

import argparse
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import torch

from ..plugin.presets import PRESETS
from .modes import CELLS, MODES, measure
from .paper import COUNTED, SETTINGS, Setting
from .table import Table


@dataclass(frozen=True)
class Case:
    """A preset, what differs from it, and the sizes of its steps."""

    preset: str
    setting: Setting
    changes: Dict[str, Any]
    kinds: Sequence[str] = ("lookahead", "recurrence")


PAPER = [Case(preset, SETTINGS[preset], {}) for preset in COUNTED]
#: what a CPU is given, so that all of this runs anywhere: the smallest preset, made smaller
SMALL = [
    Case(
        "lamemo_lm_small",
        Setting(streams=2, tokens=16, words=50),
        {"decoder_layers": 2, "decoder_embed_dim": 32, "decoder_ffn_embed_dim": 64, "mem_len": 16},
        kinds=("lookahead",),
    )
]
DTYPES = ("float32", "float16", "bfloat16")


def time_presets(options: argparse.Namespace) -> Table:
    """Training steps by preset, memory type, type of numbers and mode."""
    rows: List[List[str]] = []
    for case in SMALL if options.device == "cpu" else PAPER:
        for kind in case.kinds:
            for dtype in DTYPES:
                flags = {**PRESETS[case.preset].model, **case.changes, "memory_type": kind}
                found = measure(flags, case.setting, dtype, options.device, options.repeats)
                rows += [[case.preset, kind, dtype, mode, *found[mode].cells()] for mode in MODES]
    where = "cpu (the smallest preset, made smaller)" if options.device == "cpu" else torch.cuda.get_device_name()
    title = f"presets: training steps (forward, loss, backward) behind a full memory, measured on {where}"
    return Table(title, ["preset", "memory type", "type", "mode", *CELLS], rows)
