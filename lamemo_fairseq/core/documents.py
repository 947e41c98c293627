"""Where documents begin, so that a memory never reaches into the one before. No model here.

A document ends at a separator. Its source positions are numbered: the position whose input is the separator
predicts the next document's first token, and belongs to that document.
"""

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor

from .errors import UsageError

#: the number of places that belong to no document
NO_DOCUMENT = -1

# Tokens that are searched for separators at a time.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Separator:
    """What ends a document: a symbol, or a blank line, which is an end of line right behind another.

    Attributes:
        eos: the symbol that ends a line.
        symbol: the symbol that ends a document; None: a blank line does.
    """

    eos: int
    symbol: Optional[int] = None

    @staticmethod
    def of(dictionary: Dictionary, symbol: Optional[str]) -> "Separator":
        """The separator that ``--document-separator`` names; ``UsageError`` where the dictionary lacks it."""
        if symbol is None:
            return Separator(dictionary.eos())
        if symbol not in dictionary:
            raise UsageError(
                f"--document-separator {symbol} is not in the dictionary: name a symbol of dict.txt, or leave "
                "it out for blank lines"
            )
        return Separator(dictionary.eos(), dictionary.index(symbol))

    def ends(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Which tokens end a document: [.., n] ids and the ids [..] before them -> [.., n] bool.

        As a model's inputs, these are the tokens whose positions begin the next document. Before the text's
        first token stands ``eos``.
        """
        if self.symbol is not None:
            return tokens == self.symbol
        earlier = torch.cat([before.unsqueeze(-1), tokens[..., :-1]], dim=-1)
        return (tokens == self.eos) & (earlier == self.eos)


class Tracker:
    """Numbers the documents of texts that are read or written piece by piece.

    Args:
        separator: what ends a document.
        streams: B, texts side by side.
        device: where their tokens are.
    """

    def __init__(self, separator: Separator, streams: int, device: torch.device) -> None:
        self.separator = separator
        self.last = torch.full((streams,), separator.eos, device=device)  # [B], the token read last
        self.number = torch.zeros(streams, dtype=torch.long, device=device)  # [B], its position's document

    def read(self, tokens: Tensor) -> Tensor:
        """The documents [B, n] of the next ``tokens`` [B, n], as a model's inputs."""
        numbers = self.number.unsqueeze(1) + self.separator.ends(tokens, self.last).cumsum(1)
        self.last, self.number = tokens[:, -1], numbers[:, -1]
        return numbers

    def select(self, order: Tensor) -> None:
        """Texts in another order: ``order`` [B'] of their numbers."""
        self.last, self.number = self.last.index_select(0, order), self.number.index_select(0, order)


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
        """Reads a :class:`~.data.Text` through and notes where documents begin."""
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
