"""Segments of a text as a dataset: shifts, pads and collates what a layout cuts.

The source is the text shifted by one behind ``</s>``. 11 tokens in 2 streams and 3 segments of 2 tokens, by token index
(``source -> target``); item ``segment * streams + stream``:

    stream 0:  </s> 0 -> 0 1  |  1 2 -> 2 3  |  3 4 -> 4 5         items 0, 2, 4
    stream 1:   5   6 -> 6 7  |  7 8 -> 8 9  |  9   -> 10          items 1, 3, 5

>>> class Numbers:  # a text whose token t is the number t
...     name = "train"
...     def span(self, start, end):
...         return torch.arange(start, end)
>>> segments = Segments(Numbers(), Layout.even(11, streams=2, tokens=2), pad=98, eos=99)
>>> [item["source"].tolist() for item in segments]
[[99, 0], [5, 6], [1, 2], [7, 8], [3, 4], [9]]
>>> batch = segments.collater([segments[4], segments[5]])  # the last segment of both streams
>>> batch["net_input"]["src_tokens"].tolist(), batch["target"].tolist()
([[3, 4], [9, 98]], [[4, 5], [10, 98]])

A context window of 1: a segment reads a token once more, which is not scored.

>>> segments = Segments(Numbers(), Layout.even(11, streams=2, tokens=2, context=1), pad=98, eos=99)
>>> batch = segments.collater([segments[2], segments[3]])  # the second segment
>>> batch["net_input"]["src_tokens"].tolist(), batch["target"].tolist()
([[0, 1, 2], [6, 7, 8]], [[98, 2, 3], [98, 8, 9]])
"""

from typing import Any, Dict, List, Optional

import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from ..core.documents import NO_DOCUMENT
from .documents import Documents
from .layout import Layout


class Segments(FairseqDataset):
    """The segments of a text in a layout. Item ``segment * streams + stream``; keeps no state.

    Args:
        text: the split (or anything that has its ``name`` and ``span``).
        layout: its streams and segments.
        pad: fills streams that ended.
        eos: source of the text's first token.
        documents: where the memory is cleared; None: nowhere.
    """

    def __init__(self, text: Any, layout: Layout, pad: int, eos: int, documents: Optional[Documents] = None) -> None:
        self.text, self.layout, self.pad, self.eos, self.documents = text, layout, pad, eos, documents

    def __len__(self) -> int:
        return self.layout.segments * self.layout.streams

    def num_tokens(self, index: int) -> int:
        return self.layout.columns(index // self.layout.streams)

    size = num_tokens

    def span(self, start: int, end: int) -> Tensor:
        """Tokens of the rotated text, [end - start]."""
        total, offset = self.layout.total, self.layout.offset
        start, end = start + offset, end + offset
        if start >= total:
            return self.text.span(start - total, end - total)
        if end <= total:
            return self.text.span(start, end)
        return torch.cat([self.text.span(start, total), self.text.span(0, end - total)])

    def __getitem__(self, index: int) -> Dict[str, Any]:
        layout = self.layout
        segment, stream = divmod(index, layout.streams)
        begin, (scored, end) = layout.begin(stream), layout.scored(stream)
        first = min(begin + layout.start(segment), end)
        last = min(begin + layout.boundaries[segment + 1], end)
        # Both sides come from one piece of text that begins a token early, unless nothing is before it.
        early = 1 if first + layout.offset > 0 else 0
        piece = self.span(first - early, last)
        target = piece[early:]
        source = target.clone()
        source[1 - early :] = piece[: len(target) - 1 + early]
        beginning = (layout.total - layout.offset) % layout.total  # where the text itself begins
        if first <= beginning < last:
            source[beginning - first] = self.eos
        unscored = max(scored, begin + layout.boundaries[segment]) - first
        item: Dict[str, Any] = {
            "id": index,
            "segment": segment,
            "source": source,
            "target": target,
            "unscored": min(max(0, unscored), len(target)),
            "remembered": torch.full((len(source),), layout.start(segment)),
        }
        if self.documents is not None:
            places = (first + layout.offset, last + layout.offset)
            item["documents"] = self.documents.numbers(*places)
            older = first + layout.offset - self.documents.firsts(*places)
            item["remembered"] = item["remembered"].minimum(older.clamp(min=0))
        return item

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """A batch: the same segment of several streams."""
        return collate(samples, self.layout, self.pad, self.text.name)

    def batches(self, streams: int, ranks: int) -> List[List[int]]:
        """Item numbers per batch, in the order in which fairseq deals them out to ``ranks`` in turn.

        Streams of which no rank has text are left out, so that the cost is linear in the text, whatever ``streams`` is.
        """
        assert streams * ranks == self.layout.streams
        read = self.streams_read(streams)
        return [list(range(first, first + read)) for first in range(0, len(self), streams)]

    def streams_read(self, streams: int) -> int:
        """Streams in each batch, of the ``streams`` of a rank: as many on every rank, so that memories are alike."""
        return min(streams, self.layout.filled)

    def targets(self, rank: int, ranks: int) -> int:
        """Targets that a rank's streams score."""
        streams = self.layout.streams // ranks
        return self.layout.scored((rank + 1) * streams - 1)[1] - self.layout.scored(rank * streams)[0]


def collate(samples: List[Dict[str, Any]], layout: Layout, pad: int, name: str) -> Dict[str, Any]:
    """A batch of items that are the same segment of ``layout``.

    ``target`` holds the padding symbol where nothing is scored; what is scored is one run per stream that begins at
    ``start_indices``. ``remembered`` [B, N] counts the earlier tokens of its own document that each token's
    memory can hold; the first ``context_tokens`` columns are context.
    """
    if not samples:
        return {}
    segment = samples[0]["segment"]

    def padded(key: str, fill: int) -> Tensor:
        filled = torch.full((len(samples), layout.columns(segment)), fill)
        for stream, sample in enumerate(samples):
            filled[stream, : len(sample[key])] = sample[key]
        return filled

    targets = padded("target", pad)
    for stream, sample in enumerate(samples):
        targets[stream, : sample["unscored"]] = pad
    net_input = {
        "src_tokens": padded("source", pad),
        "src_lengths": torch.tensor([len(sample["source"]) for sample in samples]),
        "segment": segment,
        "tokens_to_memory": layout.tokens_to_memory(segment),
    }
    if "documents" in samples[0]:
        net_input["documents"] = padded("documents", NO_DOCUMENT)
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": sum(len(s["target"]) - s["unscored"] for s in samples),
        "net_input": net_input,
        "target": targets,
        "start_indices": [sample["unscored"] for sample in samples],
        "remembered": padded("remembered", 0),
        "context_tokens": layout.context_tokens(segment),
        "split": name,
    }
