"""Sentences that are scored each for itself (``--sample-break-mode eos``). Knows no task and no model.

Sentences of similar length are read side by side as one group, from the first token of each; a long one goes on
over several segments. Every group starts with an empty memory.
"""

from typing import Any, Dict, List, NamedTuple

import numpy as np
from fairseq.data import FairseqDataset
from torch import Tensor

from .layout import Layout
from .segments import Segments, collate
from .text import Text


class Line(NamedTuple):
    """One sentence as a text of its own."""

    name: str
    tokens: Tensor

    def span(self, start: int, end: int) -> Tensor:
        """Tokens ``start`` to ``end`` - 1."""
        return self.tokens[start:end].long()


class Sentences(FairseqDataset):
    """The segments of all sentences. Items run group by group, segment by segment, sentence by sentence.

    Args:
        text: the split.
        batch: sentences in a group.
        tokens: new tokens in a segment.
        context: tokens before a segment that it reads once more.
        pad: fills sentences that ended.
        eos: source of each sentence's first token.
    """

    def __init__(self, text: Text, batch: int, tokens: int, context: int, pad: int, eos: int) -> None:
        self.text, self.pad, self.eos = text, pad, eos
        lengths = np.diff(text.ends, prepend=0)
        order = np.argsort(-lengths, kind="stable")[: int((lengths > 0).sum())]
        self.groups = [order[first : first + batch] for first in range(0, len(order), batch)]
        self.layouts = [Layout.even(int(lengths[group[0]]), 1, tokens, context) for group in self.groups]
        items = [layout.segments * len(group) for layout, group in zip(self.layouts, self.groups)]
        self.firsts = np.cumsum([0, *items])  # [groups + 1]: the number of each group's first item

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def group_of(self, index: int) -> int:
        """The group that an item belongs to."""
        return int(np.searchsorted(self.firsts, index, side="right")) - 1

    def __getitem__(self, index: int) -> Dict[str, Any]:
        number = self.group_of(index)
        group, layout = self.groups[number], self.layouts[number]
        segment, number_in_group = divmod(index - int(self.firsts[number]), len(group))
        line = Line(self.text.name, self.text[group[number_in_group]])
        own = Layout(len(line.tokens), 1, layout.boundaries, layout.context)
        return {**Segments(line, own, self.pad, self.eos)[segment], "id": int(group[number_in_group]), "group": number}

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """A batch: the same segment of a group's sentences."""
        return collate(samples, self.layouts[samples[0]["group"]], self.pad, self.text.name) if samples else {}

    def num_tokens(self, index: int) -> int:
        number = self.group_of(index)
        segment = (index - int(self.firsts[number])) // len(self.groups[number])
        return self.layouts[number].columns(segment)

    size = num_tokens

    def batches(self, batch: int, ranks: int) -> List[List[int]]:
        """Item numbers per batch, in the order in which fairseq deals them out to ``ranks`` in turn.

        Each rank gets whole groups; those with fewer segments end with empty batches.
        """
        assert all(len(group) <= batch for group in self.groups)
        dealt: List[List[List[int]]] = [[] for _ in range(ranks)]
        for number, (group, layout) in enumerate(zip(self.groups, self.layouts)):
            for segment in range(layout.segments):
                first = int(self.firsts[number]) + segment * len(group)
                dealt[number % ranks].append(list(range(first, first + len(group))))
        longest = max(len(batches) for batches in dealt)
        return [batches[step] if step < len(batches) else [] for step in range(longest) for batches in dealt]

    def targets(self, rank: int, ranks: int) -> int:
        """Targets that a rank scores."""
        lengths = np.diff(self.text.ends, prepend=0)
        return int(sum(lengths[group].sum() for group in self.groups[rank::ranks]))
