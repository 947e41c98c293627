"""Where the documents of a text begin, found by reading it through once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.documents import Separator

# Tokens that are searched for separators at a time.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Documents:
    """The documents of a text.

    Places are those of targets. A rotated text goes on behind its end: place ``total + p`` is p, read a second time.

    Attributes:
        total: tokens in the text.
        begins: first token of each document, ascending, 0 first.
    """

    total: int
    begins: np.ndarray

    @staticmethod
    def find(text: Any, separator: Separator) -> "Documents":
        """Reads a :class:`~.text.Text` through and notes where documents begin."""
        begins, before = [np.zeros(1, dtype=np.int64)], torch.tensor(separator.eos)
        for start in range(0, text.total, CHUNK):
            tokens = text.span(start, min(start + CHUNK, text.total))
            begins.append(separator.ends(tokens, before).nonzero().squeeze(1).numpy() + start + 1)
            before = tokens[-1]
        places = np.concatenate(begins)
        return Documents(text.total, places[places < text.total])

    def numbers(self, start: int, end: int) -> Tensor:
        """The document of each place from ``start`` to ``end`` - 1, [end - start] int64."""
        turn, place = np.divmod(np.arange(start, end), self.total)
        number = np.searchsorted(self.begins, place, side="right") - 1
        return torch.from_numpy(number + turn * len(self.begins))

    def firsts(self, start: int, end: int) -> Tensor:
        """The place at which the document of each place begins, [end - start] int64."""
        turn, number = np.divmod(self.numbers(start, end).numpy(), len(self.begins))
        return torch.from_numpy(self.begins[number] + turn * self.total)
