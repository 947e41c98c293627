"""Results of evaluations as tables and pictures."""

import csv
import json
import os
from typing import Any, Dict, List, Optional, Tuple

from torch import Tensor

from ..core.errors import UsageError
from ..core.probe import Probe
from . import plotting
from .scoring import LossAccumulator

TABLE, RECORD = "results.csv", "results.json"
Result = Dict[str, Any]


def measures(tally: LossAccumulator) -> Result:
    """What an evaluation found."""
    score = tally.score
    words: Result = {"words": None, "word_perplexity": None, "bytes": None, "bits_per_byte": None}
    if tally.spelling.uses_subwords or score.original:
        words.update(words=score.words, word_perplexity=score.word_perplexity)
    if score.bytes:
        words.update(bytes=score.bytes, bits_per_byte=score.bits_per_byte)
    return {
        "targets": score.targets,
        "scored": score.scored,
        "scored_below_mem_len": score.partial_memory,
        "context_tokens": score.context,
        "unknown": score.unknown,
        "original_text": score.original,  # whether characters and words are counted in it
        "characters": score.characters,
        "loss_nats": score.loss,
        "bits_per_character": score.bits_per_character,
        "perplexity": score.perplexity,
        **words,
        "loss_by_position": means(tally.positions),
    }


def attention(probe: Probe) -> Result:
    """What a probe saw: means over all layers (``alpha``: those that look ahead) and per layer."""
    return {
        "attention_on_memory": float(probe.share[0].sum() / probe.share[1].sum()),
        "attention_by_distance": means(probe.attention.sum(1)),
        "alpha_by_distance": means(probe.alpha.sum(1)),
        "alpha_histogram": shares(probe.histogram.sum(0)),
        "attention_by_distance_and_layer": [means(layer) for layer in probe.attention.unbind(1)],
        "alpha_by_distance_and_layer": [means(layer) for layer in probe.alpha.unbind(1)],
        "alpha_by_layer": means(probe.alpha.sum(-1)),
        "alpha_histogram_by_layer": [shares(layer) for layer in probe.histogram],
    }


def means(sums: Tensor) -> List[Optional[float]]:
    """Sums and counts [2, n] as means, None where nothing was counted, up to the last that was."""
    found = [total / count if count else None for total, count in zip(*sums.tolist())]
    while found and found[-1] is None:
        found.pop()
    return found


def shares(counts: Tensor) -> List[float]:
    """Counts as parts of their sum, none where nothing was counted."""
    return (counts / counts.sum()).tolist() if counts.sum() else []


def line(result: Result) -> str:
    """One result as a line."""
    return (
        f"{label(result)}, segment {result['tokens_per_sample']}, context window {result['context_window']}: "
        f"{result['scored']} of {result['targets']} targets scored, loss {result['loss_nats']:.6f} nats per token, "
        f"{result['bits_per_character']:.6f} bits per character, perplexity {result['perplexity']:.4f}, "
        f"{result['tokens_per_second']:.0f} tokens/s"
    )


def label(result: Result) -> str:
    """How a result is called in tables and pictures."""
    return f"{result['memory_type']} ({result['checkpoint']}), memory {result['mem_len']}"


def read(folder: str) -> List[Result]:
    """The results that an earlier run left in ``folder``."""
    path = os.path.join(folder, RECORD)
    if not os.path.isfile(path):
        return []
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError:
        raise UsageError(f"{path} is no record of an evaluation: remove it, or choose another --results-path") from None


def write(results: List[Result], folder: str) -> List[str]:
    """Writes the record and the table; a run that is stopped meanwhile leaves the older ones. Returns their paths."""
    os.makedirs(folder, exist_ok=True)
    columns = [name for name, value in results[0].items() if not isinstance(value, list)]
    paths = [os.path.join(folder, name) for name in (RECORD, TABLE)]
    with open(paths[0] + ".tmp", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    with open(paths[1] + ".tmp", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(results)
    for path in paths:
        os.replace(path + ".tmp", path)
    return paths


def draw(results: List[Result], folder: str) -> List[str]:
    """Draws what the results allow; returns the paths of the pictures."""
    paths = [draw_memory_lengths(results, folder), draw_positions(results, folder)]
    if any("attention_by_distance" in result for result in results):
        paths.append(draw_attention(results, folder))
    return paths


def draw_memory_lengths(results: List[Result], folder: str) -> str:
    """Perplexity against memory length, a line per checkpoint, segment length and context window."""
    series: plotting.Series = {}
    for result in results:
        name = f"{result['memory_type']} ({result['checkpoint']}), {lengths(result)}"
        series.setdefault(name, []).append((result["mem_len"], result["perplexity"]))
    figure, (axes,) = plotting.panels(width=7, height=5)
    plotting.lines(axes, {name: sorted(points) for name, points in series.items()})
    plotting.label(axes, "memory length (tokens)", "perplexity per token")
    plotting.legend_below(figure, axes)
    return plotting.write_png(figure, os.path.join(folder, "perplexity.png"))


def draw_positions(results: List[Result], folder: str) -> str:
    """Mean loss at each position among a segment's new tokens."""
    figure, (axes,) = plotting.panels(width=7, height=5)
    plotting.lines(axes, {f"{label(one)}, {lengths(one)}": numbered(one["loss_by_position"], 0) for one in results})
    plotting.label(axes, "position in the segment", "loss (nats per token)")
    plotting.legend_below(figure, axes)
    return plotting.write_png(figure, os.path.join(folder, "positions.png"))


def draw_attention(results: List[Result], folder: str) -> str:
    """Attention on memory and mean alpha by distance (LaMemo, figure 1), each checkpoint at its longest memory."""
    longest: Dict[str, Result] = {}
    for result in results:
        best = longest.get(result["checkpoint"])
        if "attention_by_distance" in result and (best is None or result["mem_len"] > best["mem_len"]):
            longest[result["checkpoint"]] = result
    weights: plotting.Series = {}
    alphas: plotting.Series = {}
    for result in longest.values():
        name = f"{label(result)}: {result['attention_on_memory']:.0%} of attention on memory"
        weights[name] = numbered(result["attention_by_distance"][1:], 1)
        # Where memory is only read, no old attention is interpolated with a new one: all weight stays on the old.
        mean = result["alpha_by_distance"][1:] or [1.0] * result["mem_len"]
        alphas[name] = numbered(mean, 1)
    figure, (left, right) = plotting.panels(2, width=11, height=5)
    plotting.lines(left, weights)
    plotting.label(left, "distance to a memory token", "mean attention weight", log="y")
    plotting.lines(right, alphas)
    across, up = "distance of a memory token to the segment", "mean alpha (weight of the old attention)"
    plotting.label(right, across, up)
    right.set_ylim(0, 1.05)
    plotting.legend_below(figure, left)
    return plotting.write_png(figure, os.path.join(folder, "attention.png"))


def lengths(result: Result) -> str:
    """A result's segment and context window."""
    window = f", window {result['context_window']}" if result["context_window"] else ""
    return f"segment {result['tokens_per_sample']}{window}"


def numbered(values: List[float], first: int) -> List[Tuple[float, float]]:
    """Values as points of a line, at ``first`` and the whole numbers behind it."""
    return [(float(x), y) for x, y in enumerate(values, start=first)]
