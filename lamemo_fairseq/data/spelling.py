"""How many characters and words a dictionary's symbols stand for: what bits per character are divided by.

One place counts for training and evaluation alike.
"""

from dataclasses import dataclass

import torch
from fairseq.data import Dictionary
from torch import Tensor

#: how subword-nmt marks a piece that its word continues behind
CONTINUED = "@@"


@dataclass(frozen=True)
class Spelling:
    """How many characters the symbols stand for.

    Attributes:
        eos: the symbol that ends a line, which is one character.
        unk: the symbol of what the dictionary lacks; how many characters that were, it cannot say.
        lengths: [V] characters of each symbol.
        continued: [V] whether the word goes on in the next symbol.
        spaced: whether a space stands between words; False for a dictionary of characters.
    """

    eos: int
    unk: int
    lengths: Tensor
    continued: Tensor
    spaced: bool

    @staticmethod
    def of(dictionary: Dictionary) -> "Spelling":
        """The spelling of a dictionary of words, of pieces of words, or of characters."""
        symbols = [dictionary[index] for index in range(len(dictionary))]
        continued = [symbol.endswith(CONTINUED) and symbol != CONTINUED for symbol in symbols]
        shown = [s[: -len(CONTINUED)] if c else s for s, c in zip(symbols, continued)]
        # A few symbols of a dictionary of characters are longer: names like <unk>, and characters that are escaped.
        own = [symbol for symbol in symbols[dictionary.nspecial :] if not symbol.startswith("madeupword")]
        spaced = any(continued) or 2 * sum(len(symbol) == 1 for symbol in own) < len(own)
        lengths = [len(symbol) if spaced else 1 for symbol in shown]
        lengths[dictionary.eos()] = 1
        return Spelling(dictionary.eos(), dictionary.unk(), torch.tensor(lengths), torch.tensor(continued), spaced)

    @property
    def pieces(self) -> bool:
        """Whether words are split into pieces."""
        return bool(self.continued.any())

    def characters(self, targets: Tensor, sources: Tensor) -> int:
        """Characters of ``targets`` [n], each with the space before it, if ``sources`` [n] stand before them."""
        count = self.lengths[targets].sum()
        if self.spaced:
            count += ((targets != self.eos) & (sources != self.eos) & ~self.continued[sources]).sum()
        return int(count)

    def words(self, targets: Tensor) -> int:
        """Words that end in ``targets`` [n]: one that straddles two segments counts where it ends."""
        return int((~self.continued[targets]).sum())
