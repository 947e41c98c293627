"""Ordered streams of text: cut, shift, pad, collate. Knows no task and no model.

A split is one long text of ``total`` tokens. It is cut into rows of equal length, read side by side, segment by
segment. Every token is a target exactly once; the source is the text shifted by one behind ``</s>``.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from ..core.documents import NO_DOCUMENT
from .documents import Documents


class Text(FairseqDataset):
    """A split as one text.

    Args:
        sentences: an indexed dataset as ``fairseq-preprocess`` makes it, a line per item.
        name: the split's name.
    """

    def __init__(self, sentences: Any, name: str) -> None:
        self.sentences, self.name = sentences, name
        self.ends = np.cumsum(np.asarray(sentences.sizes, dtype=np.int64))  # [lines]

    @property
    def total(self) -> int:
        """Tokens in the split."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Tensor:
        return self.sentences[index]

    def num_tokens(self, index: int) -> int:
        return int(self.sentences.sizes[index])

    size = num_tokens

    def span(self, start: int, end: int) -> Tensor:
        """Tokens ``start`` to ``end`` - 1 of the text, [end - start] int64."""
        if start >= end:
            return torch.empty(0, dtype=torch.long)
        first, last = np.searchsorted(self.ends, [start, end - 1], side="right")
        before = int(self.ends[first - 1]) if first > 0 else 0
        lines = [self.sentences[line] for line in range(first, last + 1)]
        return torch.cat(lines)[start - before : end - before].long()


@dataclass(frozen=True)
class Layout:
    """How a text of ``total`` tokens is laid out in rows and segments.

    Attributes:
        total: tokens in the text.
        rows: rows over all ranks; each holds ceil(total / rows) tokens, the last ones what is left.
        boundaries: where segments end, in tokens from a row's beginning, 0 first.
        context: tokens before a segment that it reads once more, without scoring them (``--context-window``).
        warmup: tokens before a row's own that it reads first, without scoring them.
        offset: rotation of the text (``--random-offset``).
    """

    total: int
    rows: int
    boundaries: Sequence[int]
    context: int = 0
    warmup: int = 0
    offset: int = 0

    @staticmethod
    def even(total: int, rows: int, tokens: int, context: int = 0, warmup: int = 0, offset: int = 0) -> "Layout":
        """Segments of ``tokens`` new tokens each; a warm-up ends with a segment, so that the memory is full then."""
        longest = Layout(total, rows, (0,), context, warmup, offset).longest
        first = warmup % tokens if rows > 1 else 0
        boundaries = (0, *range(first or tokens, longest + tokens, tokens))
        return Layout(total, rows, boundaries, context, warmup, offset)

    @property
    def row_length(self) -> int:
        """Tokens that a full row scores."""
        return -(-self.total // self.rows)

    def scored(self, row: int) -> "tuple[int, int]":
        """First token that ``row`` scores, and one past the last."""
        return min(row * self.row_length, self.total), min((row + 1) * self.row_length, self.total)

    @property
    def filled(self) -> int:
        """Rows that hold text: the first ones."""
        return -(-self.total // self.row_length)

    def begin(self, row: int) -> int:
        """First token that ``row`` reads; a row that scores nothing reads nothing."""
        first, end = self.scored(row)
        return max(0, first - self.warmup) if first < end else first

    @property
    def longest(self) -> int:
        """Tokens that the longest row reads, warm-up included."""
        # Full rows read the more the later they begin; behind them comes at most one short row.
        full = self.total // self.row_length
        rows = (full - 1, min(full, self.rows - 1))
        return max(self.scored(row)[1] - self.begin(row) for row in rows)

    @property
    def segments(self) -> int:
        """Segments in a row."""
        return len(self.boundaries) - 1

    def start(self, segment: int) -> int:
        """First token that ``segment`` reads, context included, from its row's beginning."""
        return max(0, self.boundaries[segment] - self.context)

    def again(self, segment: int) -> int:
        """Tokens that ``segment`` reads as context: they were read before."""
        return self.boundaries[segment] - self.start(segment)

    def columns(self, segment: int) -> int:
        """Tokens that ``segment`` reads: as many on every rank, rows that ended are padded."""
        return min(self.boundaries[segment + 1], self.longest) - self.start(segment)

    def tokens_to_memory(self, segment: int) -> int:
        """Tokens of ``segment`` that enter the memory: those that do not come again as context."""
        if segment + 1 == self.segments:
            return self.columns(segment)
        return self.start(segment + 1) - self.start(segment)


class Segments(FairseqDataset):
    """The segments of a text in a layout. Item ``segment * rows + row``; keeps no state.

    Args:
        text: the split (or anything that has its ``name`` and ``span``).
        layout: its rows and segments.
        pad: fills rows that ended.
        eos: source of the text's first token.
        documents: where the memory is cleared; None: nowhere.
    """

    def __init__(self, text: Any, layout: Layout, pad: int, eos: int, documents: Optional[Documents] = None) -> None:
        self.text, self.layout, self.pad, self.eos, self.documents = text, layout, pad, eos, documents

    def __len__(self) -> int:
        return self.layout.segments * self.layout.rows

    def num_tokens(self, index: int) -> int:
        return self.layout.columns(index // self.layout.rows)

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
        segment, row = divmod(index, layout.rows)
        begin, (scored, end) = layout.begin(row), layout.scored(row)
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
        """A batch: the same segment of several rows."""
        return collate(samples, self.layout, self.pad, self.text.name)

    def batches(self, rows: int, ranks: int) -> List[List[int]]:
        """Item numbers per batch, in the order in which fairseq deals them out to ``ranks`` in turn.

        Rows of which no rank has text are left out, so that the cost is linear in the text, whatever ``rows`` is.
        """
        assert rows * ranks == self.layout.rows
        read = self.rows_read(rows)
        return [list(range(first, first + read)) for first in range(0, len(self), rows)]

    def rows_read(self, rows: int) -> int:
        """Rows in each batch, of the ``rows`` that a rank has: as many on every rank, so that memories are alike."""
        return min(rows, self.layout.filled)

    def targets(self, rank: int, ranks: int) -> int:
        """Targets that a rank's rows score."""
        rows = self.layout.rows // ranks
        return self.layout.scored((rank + 1) * rows - 1)[1] - self.layout.scored(rank * rows)[0]


def collate(samples: List[Dict[str, Any]], layout: Layout, pad: int, name: str) -> Dict[str, Any]:
    """A batch of items that are the same segment of ``layout``.

    ``target`` holds the padding symbol where nothing is scored; what is scored is one run per row that begins at
    ``start_indices``. ``remembered`` [B, N] counts the earlier tokens of its own document that each token's
    memory can hold; the first ``again`` columns are context.
    """
    if not samples:
        return {}
    segment = samples[0]["segment"]

    def rows(key: str, fill: int) -> Tensor:
        filled = torch.full((len(samples), layout.columns(segment)), fill)
        for row, sample in enumerate(samples):
            filled[row, : len(sample[key])] = sample[key]
        return filled

    targets = rows("target", pad)
    for row, sample in enumerate(samples):
        targets[row, : sample["unscored"]] = pad
    net_input = {
        "src_tokens": rows("source", pad),
        "src_lengths": torch.tensor([len(sample["source"]) for sample in samples]),
        "segment": segment,
        "tokens_to_memory": layout.tokens_to_memory(segment),
    }
    if "documents" in samples[0]:
        net_input["documents"] = rows("documents", NO_DOCUMENT)
    return {
        "id": torch.tensor([sample["id"] for sample in samples]),
        "nsentences": len(samples),
        "ntokens": sum(len(s["target"]) - s["unscored"] for s in samples),
        "net_input": net_input,
        "target": targets,
        "start_indices": [sample["unscored"] for sample in samples],
        "remembered": rows("remembered", 0),
        "again": layout.again(segment),
        "stream": name,
    }


def rotation(total: int, seed: int, epoch: int) -> int:
    """The offset of an epoch, drawn from ``seed``: the same on every rank."""
    return int(np.random.default_rng([seed, epoch]).integers(total))


def rows_for(batch_size: Optional[int], max_tokens: Optional[int], tokens: int) -> int:
    """Rows per rank: the batch size, or as many segments as ``max_tokens`` allows."""
    if batch_size is not None:
        return batch_size
    return 1 if max_tokens is None else max(1, max_tokens // tokens)
