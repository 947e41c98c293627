"""A plain sum of losses over a text, by loops over streams and segments alone: what any evaluation must agree with."""

from typing import Any, Optional

import torch
from torch import Tensor

from lamemo_fairseq.data.memory_store import MemoryStore


def mean_loss(
    decoder: Any, text: Tensor, eos: int, tokens: int, context: int, streams: int, warmup: Optional[int]
) -> float:
    """Nats per token of ``text`` [total], in ``streams`` parts, each read for itself from where its warm-up begins."""
    total = len(text)
    source = torch.cat([torch.tensor([eos]), text[:-1]])
    length = -(-total // streams)
    if warmup is None:
        warmup = decoder.memory.span + context
    nats = 0.0
    for stream in range(streams):
        first, end = min(stream * length, total), min((stream + 1) * length, total)
        if first < end:
            nats += read_stream(
                decoder, source, text, (max(0, first - warmup), first, end), tokens, context, warmup, streams
            )
    return nats / total


def read_stream(
    decoder: Any, source: Tensor, text: Tensor, places: Any, tokens: int, context: int, warmup: int, streams: int
) -> float:
    """Nats of one stream's own targets; ``places`` are where it begins to read, to score, and where it ends."""
    begin, first, end = places
    store, number, nats = MemoryStore("plain"), 0, 0.0
    cut = begin
    step = (warmup % tokens or tokens) if streams > 1 else tokens
    while cut < end:
        after = min(cut + step, end)
        start = max(begin, cut - context)
        following = max(begin, after - context)  # where the next segment begins to read
        piece = source[None, start:after]
        moved = after - start if after == end else following - start
        with torch.no_grad():
            output = decoder(piece, store=store, segment=number, tokens_to_memory=moved)
            log_probs = decoder.get_normalized_probs(output, log_probs=True)[0].double()
        for place in range(max(cut, first), after):
            nats -= float(log_probs[place - start, text[place]])
        cut, step, number = after, tokens, number + 1
    return nats
