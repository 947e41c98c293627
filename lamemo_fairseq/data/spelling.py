"""How many characters and words a dictionary's symbols stand for: what bits per character are divided by.

One place counts for training and evaluation alike.
"""

import re
from dataclasses import dataclass

import torch
from fairseq.data import Dictionary
from torch import Tensor

#: how subword-nmt marks a piece that its word continues behind
CONTINUED = "@@"
#: a byte or a character that is escaped (``byte_tokens.py``, ``characters.py``): more than half of enwik8's 204 symbols
ESCAPED = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]+)")
#: how sentencepiece writes the space before a word, which it also puts before the first word of a line
SPACE = "\u2581"


def is_character(symbol: str) -> bool:
    """Whether a symbol is one character or byte, as it stands or escaped."""
    return len(symbol) == 1 or ESCAPED.fullmatch(symbol) is not None


@dataclass(frozen=True)
class Spelling:
    """How many characters the symbols stand for.

    Attributes:
        eos: the symbol that ends a line, which is one character.
        unk: the symbol of what the dictionary lacks; how many characters that were, it cannot say.
        lengths: [V] characters of each symbol.
        continued: [V] whether the word goes on in the next symbol.
        begins: [V] whether the symbol begins with a space (of sentencepiece), and thereby a word.
        spaced: whether a space that is no symbol stands between words; False for characters and for sentencepiece.
    """

    eos: int
    unk: int
    lengths: Tensor
    continued: Tensor
    begins: Tensor
    spaced: bool

    @staticmethod
    def of(dictionary: Dictionary) -> "Spelling":
        """The spelling of a dictionary of words, of pieces of words, or of characters."""
        symbols = [dictionary[index] for index in range(len(dictionary))]
        continued = [symbol.endswith(CONTINUED) and symbol != CONTINUED for symbol in symbols]
        shown = [s[: -len(CONTINUED)] if c else s for s, c in zip(symbols, continued)]
        # A few symbols of a dictionary of characters are longer, names like <unk>; those that are escaped are one.
        own = [symbol for symbol in symbols[dictionary.nspecial :] if not symbol.startswith("madeupword")]
        begins = [symbol.startswith(SPACE) for symbol in symbols]
        sentencepiece = any(len(symbol) > 1 for symbol, begun in zip(symbols, begins) if begun)
        spaced = any(continued) or not sentencepiece and 2 * sum(map(is_character, own)) < len(own)
        begins = [begun and sentencepiece for begun in begins]
        lengths = [len(symbol) if spaced or sentencepiece else 1 for symbol in shown]
        lengths[dictionary.eos()] = 1
        tensors = (torch.tensor(lengths), torch.tensor(continued), torch.tensor(begins))
        return Spelling(dictionary.eos(), dictionary.unk(), *tensors, spaced)

    @property
    def uses_subwords(self) -> bool:
        """Whether words are split into pieces."""
        return bool((self.continued | self.begins).any())

    @property
    def is_characters(self) -> bool:
        """Whether every symbol is one character."""
        return not self.spaced and not self.uses_subwords

    def characters(self, targets: Tensor, sources: Tensor) -> int:
        """Characters of ``targets`` [n], each with the space before it, if ``sources`` [n] stand before them."""
        count = self.lengths[targets].sum()
        if self.spaced:
            count += ((targets != self.eos) & (sources != self.eos) & ~self.continued[sources]).sum()
        count -= (self.begins[targets] & (sources == self.eos)).sum()  # no space stands where a line begins
        return int(count)

    def words(self, targets: Tensor) -> int:
        """Words that end in ``targets`` [n], of sentencepiece those that begin there; an end of line is one."""
        if self.begins.any():
            return int((self.begins[targets] | (targets == self.eos)).sum())
        return int((~self.continued[targets]).sum())
