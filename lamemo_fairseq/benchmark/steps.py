"""Training steps and scored segments of one size, by memory length and by kind, in turns."""

import argparse
from typing import Dict, List

from .models import DECODING, SEGMENT, STREAMS, WORDS, clock, lower_quartile, model, sizes
from .subject import Subject
from .table import Table


def train(options: argparse.Namespace) -> Table:
    """Training steps by memory length: look-ahead beside recurrence, in turns."""
    rows, ratios, seconds = [], {}, {}
    for memory in (128, 512, 1024):
        subjects: Dict[str, Subject] = {}
        times: Dict[str, List[float]] = {}
        for kind in ("lookahead", "recurrence"):
            decoder = model(WORDS, SEGMENT, options.device, memory_type=kind, mem_len=memory, **DECODING)
            subjects[kind] = Subject(decoder, SEGMENT, options.device, lambda: clock(options.device))
            times[kind] = []
        for _ in range(options.repeats):
            for kind, subject in subjects.items():
                times[kind] += subject.training(STREAMS, 2)
        best = {kind: lower_quartile(values) for kind, values in times.items()}
        seconds[memory] = best["lookahead"]
        ratio = best["lookahead"] / best["recurrence"]
        ratios[f"train_lookahead_over_recurrence_mem{memory}"] = ratio
        rows.append((str(memory), *(f"{value * 1e3:.0f}" for value in best.values()), f"{ratio:.2f}"))
    ratios["train_time_mem1024_over_mem512"] = seconds[1024] / seconds[512]
    return Table(f"train: {sizes(options)}", ["memory", "look-ahead ms", "recurrence ms", "ratio"], rows, ratios)


def evaluate(options: argparse.Namespace) -> Table:
    """Evaluation against training steps on the same shapes, and by batch size."""
    memory, rows = 512, []
    for memory_type in ("lookahead", "recurrence"):
        decoder = model(WORDS, SEGMENT, options.device, memory_type=memory_type, mem_len=memory, **DECODING)
        subject = Subject(decoder, SEGMENT, options.device, lambda: clock(options.device))
        training: List[float] = []
        evaluation: Dict[int, List[float]] = {1: [], 4: [], 16: []}
        for _ in range(options.repeats):
            training += subject.training(STREAMS, 2)
            for streams, times in evaluation.items():
                times += subject.evaluation(streams, 2)
        speed = {streams: streams * SEGMENT / lower_quartile(times) for streams, times in evaluation.items()}
        trained = STREAMS * SEGMENT / lower_quartile(training)
        ratio = f"{speed[STREAMS] / trained:.2f}"
        rows.append((memory_type, f"{trained:.0f}", *(f"{value:.0f}" for value in speed.values()), ratio))
    head = [
        "memory type",
        "training tok/s",
        *(f"eval tok/s at {n}" for n in (1, 4, 16)),
        f"eval / training at {STREAMS}",
    ]
    return Table(f"eval: {sizes(options)}, memory {memory}", head, rows)
