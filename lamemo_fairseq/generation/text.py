"""From text to tokens and back: prompts as they were typed, and what of the dictionary can stand in a text."""

import re
from typing import Any, Callable, FrozenSet, List, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..core.errors import UsageError

# What fairseq-preprocess adds to a dictionary until its size is a multiple of eight.
PADDING = re.compile(r"madeupword\d{4,}")


def suppressed_symbols(dictionary: Dictionary, write_unk: bool) -> FrozenSet[int]:
    """Ids of the symbols that stand in no text: ``<s>``, ``<pad>``, the dictionary's padding, and ``<unk>`` unless
    it was asked for."""
    padding = [
        number
        for number, (symbol, count) in enumerate(zip(dictionary.symbols, dictionary.count))
        if count == 0 and PADDING.fullmatch(symbol)
    ]
    special = [dictionary.bos(), dictionary.pad(), *([] if write_unk else [dictionary.unk()])]
    return frozenset([*special, *padding])


def encode_text(text: str, encode: Callable[[str], str], dictionary: Dictionary, name: str) -> Tensor:
    """Tokens [n] int64 of a text that goes on: ``</s>`` where a line ends, none at the text's end.

    Args:
        text: as it was typed.
        encode: tokenizer and BPE: a line -> its symbols, with spaces between them.
        dictionary: of the symbols.
        name: what errors call the text.

    Raises:
        UsageError: where it is blank, no UTF-8, or has symbols that the dictionary lacks.
    """
    # What is not UTF-8 arrives from standard input as half of a surrogate pair.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{name} is not UTF-8: convert it, for instance with iconv -f latin1 -t utf-8")
    tokens: List[int] = []
    for number, line in enumerate(text.split("\n")):
        tokens += [dictionary.eos()] if number > 0 else []
        symbols = encode_line(line, encode, dictionary)
        unknown = unknown_symbols(symbols, dictionary)
        if unknown:
            raise UsageError(
                f"{name} has symbols that the dictionary lacks: {name_words(line, unknown, encode, dictionary)} (write "
                "it as the training text was: --tokenizer (lamemo: --moses), --bpe, for characters --bpe "
                "text_characters; or write <unk>)"
            )
        tokens += [dictionary.index(one) for one in symbols]
    if not tokens:
        raise UsageError(f"{name} is empty, and there is nothing to continue: give some text")
    return torch.tensor(tokens)


def encode_line(line: str, encode: Callable[[str], str], dictionary: Dictionary) -> List[str]:
    """The symbols of a line; ``<unk>`` in it is itself, whatever the tokenizer would make of it."""
    known = line.split(dictionary.unk_word)
    symbols = encode(known[0]).split()
    for part in known[1:]:
        symbols += [dictionary.unk_word, *encode(part).split()]
    return symbols


def unknown_symbols(symbols: List[str], dictionary: Dictionary) -> List[str]:
    """Those that the dictionary lacks, each once."""
    unknown = [one for one in symbols if dictionary.index(one) == dictionary.unk() and one != dictionary.unk_word]
    return list(dict.fromkeys(unknown))


def name_words(line: str, unknown: List[str], encode: Callable[[str], str], dictionary: Dictionary) -> str:
    """The words of ``line`` that hold ``unknown`` symbols, as they were typed, the first five of them.

    A word that is more than its symbol is followed by the part that is not known.
    """
    shown = []
    for word in dict.fromkeys(line.split()):
        parts = [one for one in unknown_symbols(encode(word).split(), dictionary) if one in unknown]
        if parts:
            shown.append(word if parts == [word] else f"{word} ({' '.join(parts)})")
    # A tokenizer may see a word otherwise where it stands alone.
    return " ".join((shown or unknown)[:5])


class LineCodec:
    """A tokenizer or BPE that works line by line: ``</s>`` among symbols is a line end in plain text.

    Args:
        codec: with ``encode`` and ``decode`` of a line; None leaves lines as they are.
        eos: how the dictionary writes ``</s>``.
    """

    def __init__(self, codec: Optional[Any], eos: str) -> None:
        self.codec, self.eos = codec, eos

    def encode(self, text: str) -> str:
        """A line as symbols."""
        return text if self.codec is None else self.codec.encode(text)

    def decode(self, text: str) -> str:
        """Symbols, or lines of them, as plain text."""
        lines = re.split(rf" ?{re.escape(self.eos)} ?|\n", text)
        return "\n".join(lines if self.codec is None else [self.codec.decode(line) for line in lines])
