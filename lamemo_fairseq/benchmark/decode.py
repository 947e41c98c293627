"""Tokens decoded one by one, against refreshing the memory at every token."""

import argparse
from typing import Dict, List

import torch

from ..core.decoding import DecodingSegment
from ..plugin.decoder import LaMemoDecoder
from .models import Sizes, clock, lower_quartile, peak_megabytes
from .table import Table


def filled(decoder: LaMemoDecoder, memory: int, sizes: Sizes, device: str) -> DecodingSegment:
    """A text whose memory is full, and whose segment is too: the next token refreshes."""
    tokens = torch.randint(4, sizes.words, (sizes.streams, memory + sizes.segment), device=device)
    segment = decoder.new_segment(sizes.streams)
    if decoder.segment_length < sizes.segment:  # as full, without a refresh for every token
        longer, decoder.segment_length = decoder.segment_length, sizes.segment
        segment = filled(decoder, memory, sizes, device)
        segment.close(decoder.memory)
        decoder.segment_length = longer
        return decoder.new_segment(sizes.streams, segment.state)
    for _ in decoder.decode_tokens(tokens, segment):
        pass
    return segment


@torch.no_grad()
def time_decoding(memory: int, options: argparse.Namespace) -> Dict[str, float]:
    """Seconds per token: ``refresh``, the first of a segment; ``alone``, each other; ``token``, a segment's mean;
    ``each``, with a refresh for every token; ``prefill``, of a prompt that is read in whole segments."""
    device = options.device
    sizes: Sizes = options.sizes
    decoder, every = sizes.model(options, memory), sizes.model(options, memory, segment=1)
    segment, prefilled, refreshing = (filled(one, memory, sizes, device) for one in (decoder, decoder, every))
    times: Dict[str, List[float]] = {"refresh": [], "alone": [], "each": [], "prefill": []}

    def measure(name: str, one: LaMemoDecoder, text: DecodingSegment, tokens: int) -> None:
        column = torch.randint(4, sizes.words, (sizes.streams, tokens), device=device)
        start = clock(device)
        for features in one.decode_tokens(column, text):
            one.output_layer(features)
        times[name].append((clock(device) - start) / tokens)

    for _ in range(options.repeats):
        measure("refresh", decoder, segment, 1)
        for _ in range(sizes.segment - 1):
            measure("alone", decoder, segment, 1)
        for _ in range(3):
            measure("each", every, refreshing, 1)
        measure("prefill", decoder, prefilled, sizes.segment)
    found = {name: lower_quartile(values) for name, values in times.items()}
    return {**found, "token": (found["refresh"] + found["alone"] * (sizes.segment - 1)) / sizes.segment}


def decode(options: argparse.Namespace) -> Table:
    """Incremental decoding against refreshing the memory at every token."""
    sizes: Sizes = options.sizes
    rows, smallest, ratios = [], None, {}
    for memory in sizes.memories:
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
                f"{sizes.streams / best['prefill']:.0f}",
                f"{best['token'] / best['prefill']:.1f}",
                f"{peak_megabytes(options.device):.0f}",
            )
        )
    head = "memory|ms/token|without refresh|refresh ms|each token ms|ratio|growth|prefill tok/s|prefill ratio|peak MB"
    return Table(f"decode: {sizes.title(options)}", head.split("|"), rows, ratios)
