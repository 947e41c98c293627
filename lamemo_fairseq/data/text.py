"""A split as one running text, whatever lines it is stored in."""

from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor


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
