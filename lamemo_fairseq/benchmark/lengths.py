"""A training step's time by memory length, for every kind in turns, beside the floor that the device itself sets."""

import argparse
from typing import Dict, List, NamedTuple

import torch

from ..core.memory import KINDS
from ..evaluation import plotting
from .models import Sizes, Times, lower_quartile
from .modes import floor_seconds, rates
from .paper import Setting, Training, counting_products
from .table import Table

HEAD = "memory type|memory|ms/step|CPU ms|TFLOP|floor ms|share of the floor".split("|")
#: steps per turn; there are as many turns as --repeats says
TURN = 2


class Step(NamedTuple):
    """Times of one kind's step at one length, in seconds: on the clock, of all threads together, and the floor's."""

    wall: float
    cpu: float
    floor: float
    flops: int

    def cells(self) -> List[str]:
        """The columns behind kind and length."""
        return [
            f"{self.wall * 1e3:.0f}",
            f"{self.cpu * 1e3:.0f}",
            f"{self.flops / 1e12:.3f}",
            f"{self.floor * 1e3:.0f}",
            f"{self.floor / self.wall:.0%}",
        ]


def measure(options: argparse.Namespace, memory: int) -> Dict[str, Step]:
    """A step of each kind behind a full memory of ``memory`` tokens: forward, loss and backward, without dropout."""
    sizes: Sizes = options.sizes
    setting, trainings, flops = Setting(sizes.streams, sizes.segment, sizes.words), {}, {}
    for kind in KINDS:
        length = 0 if kind == "none" else memory
        trainings[kind] = Training(sizes.model(options, length, memory_type=kind, dropout=0.0), setting)
        with counting_products() as counted:
            trainings[kind].step()
        flops[kind] = counted.get_total_flops()
    times = {kind: Times() for kind in KINDS}
    for _ in range(options.repeats):
        for kind, training in trainings.items():
            for _ in range(TURN):
                times[kind].take(options.device, training.step)
    rate = rates(options.device, torch.float32)
    return {
        kind: Step(
            lower_quartile(found.wall),
            lower_quartile(found.cpu),
            floor_seconds(flops[kind], trainings[kind].decoder, setting, rate),
            flops[kind],
        )
        for kind, found in times.items()
    }


def lengths(options: argparse.Namespace) -> Table:
    """Every kind by memory length, as a table and as a figure."""
    sizes: Sizes = options.sizes
    found = {memory: measure(options, memory) for memory in sizes.memories}
    rows = [[kind, str(memory), *found[memory][kind].cells()] for kind in KINDS for memory in sizes.memories]
    series = {kind: [(float(memory), found[memory][kind].wall * 1e3) for memory in sizes.memories] for kind in KINDS}
    title = f"lengths: {sizes.title(options)}, no dropout; without the optimizer's step"
    figure = plotting.draw(series, "tokens of memory", "milliseconds per training step", log="x")
    return Table(title, HEAD, rows, figure=figure)
