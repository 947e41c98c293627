#!/usr/bin/env python3
"""Speed, measured here and now: each part prints one table.

    scripts/benchmark.py [PART ...] [--threads 2] [--device cpu]

Absolute numbers belong to the machine. Ratios come from one run, in which what is compared takes turns, and each
side counts with the lower quartile of its times: what else the machine does only ever adds.

A part is a function from the options to a table, registered by name with ``@part``.
"""

import argparse
import json
import logging
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

os.environ.setdefault("LOGLEVEL", "WARNING")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from benchmark_eval import Subject  # noqa: E402
from fairseq.data import Dictionary  # noqa: E402

from lamemo_fairseq.benchmark import paper, presets  # noqa: E402
from lamemo_fairseq.core.decoding import DecodingSegment  # noqa: E402
from lamemo_fairseq.core.memory import KINDS  # noqa: E402
from lamemo_fairseq.plugin.config import LaMemoConfig  # noqa: E402
from lamemo_fairseq.plugin.decoder import LaMemoDecoder  # noqa: E402


@dataclass(frozen=True)
class Table:
    """What a part found: a title, column heads, rows of as many cells, and ratios by the names that checks know."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [list(self.head), *map(list, self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
        return "\n".join([self.title, *shown])


Part = Callable[[argparse.Namespace], Table]
PARTS: Dict[str, Part] = {}


def part(name: str) -> Callable[[Part], Part]:
    """Registers a part."""

    def register(function: Part) -> Part:
        PARTS[name] = function
        return function

    return register


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


DECODING = {
    "decoder_layers": 6,
    "decoder_embed_dim": 256,
    "decoder_attention_heads": 4,
    "decoder_ffn_embed_dim": 1024,
}
WORDS, STREAMS, SEGMENT = 1000, 4, 128


def filled(decoder: LaMemoDecoder, memory: int, device: str) -> DecodingSegment:
    """A text whose memory is full, and whose segment is too: the next token refreshes."""
    tokens = torch.randint(4, WORDS, (STREAMS, memory + SEGMENT), device=device)
    opened = decoder.open(STREAMS)
    if decoder.segment_length < SEGMENT:  # as full, without a refresh for every token
        longer, decoder.segment_length = decoder.segment_length, SEGMENT
        opened = filled(decoder, memory, device)
        opened.close(decoder.memory)
        decoder.segment_length = longer
        return decoder.open(STREAMS, opened.state)
    for _ in decoder.decode_tokens(tokens, opened):
        pass
    return opened


def lower_quartile(values: Sequence[float]) -> float:
    """The value that a quarter of ``values`` stays below."""
    return sorted(values)[len(values) // 4]


@torch.no_grad()
def time_decoding(memory: int, options: argparse.Namespace) -> Dict[str, float]:
    """Seconds per token: ``refresh``, the first of a segment; ``alone``, each other; ``token``, a segment's mean;
    ``each``, with a refresh for every token; ``prefill``, of a prompt that is read in whole segments."""
    device = options.device
    decoder = model(WORDS, SEGMENT, device, mem_len=memory, **DECODING)
    every = model(WORDS, 1, device, mem_len=memory, **DECODING)
    opened, prefilled, refreshing = (filled(one, memory, device) for one in (decoder, decoder, every))
    times: Dict[str, List[float]] = {"refresh": [], "alone": [], "each": [], "prefill": []}

    def measure(name: str, one: LaMemoDecoder, text: DecodingSegment, tokens: int) -> None:
        column = torch.randint(4, WORDS, (STREAMS, tokens), device=device)
        start = clock(device)
        for features in one.decode_tokens(column, text):
            one.output_layer(features)
        times[name].append((clock(device) - start) / tokens)

    for _ in range(options.repeats):
        measure("refresh", decoder, opened, 1)
        for _ in range(SEGMENT - 1):
            measure("alone", decoder, opened, 1)
        for _ in range(3):
            measure("each", every, refreshing, 1)
        measure("prefill", decoder, prefilled, SEGMENT)
    found = {name: lower_quartile(values) for name, values in times.items()}
    return {**found, "token": (found["refresh"] + found["alone"] * (SEGMENT - 1)) / SEGMENT}


@part("decode")
def decode(options: argparse.Namespace) -> Table:
    """Incremental decoding against refreshing the memory at every token."""
    rows, smallest, ratios = [], None, {}
    for memory in (128, 512, 1024):
        best = time_decoding(memory, options)
        smallest = best["token"] if smallest is None else smallest
        ratios[f"decode_recompute_over_incremental_mem{memory}"] = best["each"] / best["token"]
        rows.append(
            (
                str(memory),
                f"{best['token'] * 1e3:.2f}",
                f"{best['alone'] * 1e3:.2f}",
                f"{best['refresh'] * 1e3:.0f}",
                f"{best['each'] * 1e3:.0f}",
                f"{best['each'] / best['token']:.1f}",
                f"{best['token'] / smallest:.2f}",
                f"{STREAMS / best['prefill']:.0f}",
                f"{best['token'] / best['prefill']:.1f}",
                f"{peak_megabytes(options.device):.0f}",
            )
        )
    head = "memory|ms/token|without refresh|refresh ms|each token ms|ratio|growth|prefill tok/s|prefill ratio|peak MB"
    title = (
        f"decode: 6 layers, width 256, 4 heads, FFN 1024, vocabulary {WORDS}, {STREAMS} rows, segment {SEGMENT}, "
        f"float32, {options.device}, {options.threads} threads"
    )
    return Table(title, head.split("|"), rows, ratios)


@part("train")
def train(options: argparse.Namespace) -> Table:
    """Training steps by memory length: look-ahead beside recurrence, in turns."""
    rows, ratios, seconds = [], {}, {}
    for memory in (128, 512, 1024):
        subjects, times = {}, {}
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
    title = (
        f"train: 6 layers, width 256, 4 heads, FFN 1024, vocabulary {WORDS}, {STREAMS} rows, segment {SEGMENT}, "
        f"float32, {options.device}, {options.threads} threads"
    )
    return Table(title, ["memory", "look-ahead ms", "recurrence ms", "ratio"], rows, ratios)


@part("presets")
def time_presets(options: argparse.Namespace) -> Table:
    """Training steps of the presets on the device that is there."""
    where = torch.cuda.get_device_name() if options.device != "cpu" else "cpu (smallest preset)"
    return Table(f"presets: measured on {where}", presets.HEAD, presets.rows(options.device, options.repeats))


@part("eval")
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
    title = (
        f"eval: 6 layers, width 256, 4 heads, FFN 1024, vocabulary {WORDS}, segment {SEGMENT}, memory {memory}, "
        f"training with {STREAMS} streams, float32, {options.device}, {options.threads} threads"
    )
    return Table(title, head, rows)


@part("paper")
def count_paper(options: argparse.Namespace) -> Table:
    """The paper's sizes on a GPU, counted without one."""
    rows = [paper.row(paper.count(preset, kind)) for preset in paper.SETTINGS for kind in KINDS]
    title = (
        "paper: counted on fake CUDA tensors, not measured: a step (forward, loss, backward) behind a full memory and "
        f"a token within a segment, bfloat16; rates {paper.FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s and "
        f"{paper.BYTES_PER_SECOND / 1e12:.1f} TB/s"
    )
    return Table(title, paper.HEAD, rows)


#: parts that are run together; cpu: all ratios of time
SUITES = {"cpu": ("train", "decode", "eval")}


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """The chosen parts' tables, as they come."""
    for name in options.parts or PARTS:
        yield PARTS[name](options)


def write_json(path: Path, found: Sequence[Table]) -> None:
    """Ratios by name, and the tables as printed."""
    shown = [{"title": one.title, "head": list(one.head), "rows": [list(row) for row in one.rows]} for one in found]
    ratios = {name: ratio for table in found for name, ratio in table.ratios.items()}
    path.write_text(json.dumps({"ratios": ratios, "tables": shown}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="times that what is compared takes turns")
    parser.add_argument("--suite", choices=sorted(SUITES), help="parts that belong together")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write ratios and tables to this file too")
    options = parser.parse_args()
    options.parts = options.parts or list(SUITES.get(options.suite, ()))
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"{name} is no part: choose of {', '.join(PARTS)}")
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    found = []
    for table in tables(options):
        print(table, end="\n\n", flush=True)
        found.append(table)
    if options.json is not None:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
