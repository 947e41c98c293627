"""Training steps and scored segments of one size, by memory length and by kind, in turns."""

import argparse
from typing import Dict, List

from .models import Sizes, clock, lower_quartile
from .subject import Subject
from .table import Table


def train(options: argparse.Namespace) -> Table:
    """Training steps by memory length: look-ahead beside recurrence, in turns."""
    sizes: Sizes = options.sizes
    rows, ratios, seconds = [], {}, {}
    for memory in sizes.memories:
        subjects: Dict[str, Subject] = {}
        times: Dict[str, List[float]] = {}
        for kind in ("lookahead", "recurrence"):
            decoder = sizes.model(options, memory, memory_type=kind)
            subjects[kind] = Subject(decoder, sizes.segment, options.device, lambda: clock(options.device))
            times[kind] = []
        for _ in range(options.repeats):
            for kind, subject in subjects.items():
                times[kind] += subject.training(sizes.streams, 2)
        best = {kind: lower_quartile(values) for kind, values in times.items()}
        seconds[memory] = best["lookahead"]
        ratio = best["lookahead"] / best["recurrence"]
        ratios[f"train_lookahead_over_recurrence_mem{memory}"] = ratio
        rows.append((str(memory), *(f"{value * 1e3:.0f}" for value in best.values()), f"{ratio:.2f}"))
    for shorter, longer in zip(sizes.memories, sizes.memories[1:]):
        ratios[f"train_time_mem{longer}_over_mem{shorter}"] = seconds[longer] / seconds[shorter]
    return Table(f"train: {sizes.title(options)}", ["memory", "look-ahead ms", "recurrence ms", "ratio"], rows, ratios)


def evaluate(options: argparse.Namespace) -> Table:
    """Evaluation against training steps on the same shapes, and by batch size."""
    sizes: Sizes = options.sizes
    memory, rows = 512, []
    for memory_type in ("lookahead", "recurrence"):
        decoder = sizes.model(options, memory, memory_type=memory_type)
        subject = Subject(decoder, sizes.segment, options.device, lambda: clock(options.device))
        training: List[float] = []
        evaluation: Dict[int, List[float]] = {1: [], 4: [], 16: []}
        for _ in range(options.repeats):
            training += subject.training(sizes.streams, 2)
            for streams, times in evaluation.items():
                times += subject.evaluation(streams, 2)
        speed = {streams: streams * sizes.segment / lower_quartile(times) for streams, times in evaluation.items()}
        trained = sizes.streams * sizes.segment / lower_quartile(training)
        ratio = f"{speed[sizes.streams] / trained:.2f}"
        rows.append((memory_type, f"{trained:.0f}", *(f"{value:.0f}" for value in speed.values()), ratio))
    head = [
        "memory type",
        "training tok/s",
        *(f"eval tok/s at {n}" for n in (1, 4, 16)),
        f"eval / training at {sizes.streams}",
    ]
    return Table(f"eval: {sizes.title(options)}, memory {memory}", head, rows)
