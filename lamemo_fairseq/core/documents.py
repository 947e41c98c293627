"""Document boundaries: what separates documents, and which document each token of a stream belongs to.

A document ends at a separator. Its source positions are numbered: the position whose input is the separator
predicts the next document's first token, and belongs to that document.
"""

from dataclasses import dataclass
from typing import Optional, Protocol

import torch
from torch import Tensor

from .errors import UsageError

#: the number of places that belong to no document
NO_DOCUMENT = -1


class Symbols(Protocol):
    """What a vocabulary has to answer, as fairseq's dictionary does."""

    def eos(self) -> int:
        """The symbol that ends a line."""

    def index(self, sym: str) -> int:
        """The number of a symbol."""

    def __contains__(self, sym: str) -> bool:
        """Whether it is known."""


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
    def of(dictionary: Symbols, symbol: Optional[str]) -> "Separator":
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
