"""Size of the original text of each split, as ``lamemo prepare`` leaves it beside the data; needs no fairseq.

The file is ``corpus.json`` in the data-bin. What is read of it::

    {"splits": {"test": {"lines": 300, "words": 7512, "characters": 40123, "bytes": 40125,   the ORIGINAL text
                         "tokens": 9731,     tokens of the data-bin, </s> included
                         "unknown": 12},     of these, <unk>
                "train": ..., "valid": ...}, ...}

The original text is the one before tokenization, byte-pair encoding and unknown words. ``words`` are separated by white
space, as Python's ``str.split`` does it. ``characters`` and ``bytes`` (of UTF-8) include one line end for each of the
``lines``; ``words`` include none. Of PG-19 they are those that were published, by which everybody divides. Further keys
are left alone.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Optional

from ..core.errors import UsageError

#: the file in a data-bin
CORPUS_FILE = "corpus.json"


@dataclass
class TextCounts:
    """Size of a text. Counts lines while they are passed on by :meth:`counting`.

    Attributes:
        lines: lines.
        words: what white space separates.
        characters: characters, a line end being one.
        bytes: bytes in UTF-8, a line end being one.
        tokens: tokens of the data-bin that was made of it, ``</s>`` included; None: not known.
        unknown: of these, ``<unk>``; None: not known.
    """

    lines: int = 0
    words: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: Optional[int] = None
    unknown: Optional[int] = None

    def add(self, line: str) -> None:
        """Counts a line, given without its end."""
        self.lines += 1
        self.words += len(line.split())
        self.characters += len(line) + 1
        self.bytes += len(line.encode("utf-8", "surrogatepass")) + 1

    def counting(self, lines: Iterable[str]) -> Iterator[str]:
        """The same lines, counted as they are read."""
        for line in lines:
            self.add(line)
            yield line


def read_counts(data_bin: str, split: str) -> Optional[TextCounts]:
    """Counts of a split's original text; None where the data-bin has none (fairseq-preprocess alone leaves none).

    Raises:
        UsageError: the file cannot be read, or its counts are no numbers.
    """
    path = os.path.join(data_bin, CORPUS_FILE)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found: Any = json.load(file)
        entry = found.get("splits", {}).get(split, {})
        if not {"lines", "words", "characters", "bytes"} <= entry.keys():
            return None  # written by an earlier version, or of another split
        counts = TextCounts(**{name: entry[name] for name in TextCounts.__dataclass_fields__ if name in entry})
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no record of a corpus ({error}): prepare the data again, or remove it") from None
    numbers = [getattr(counts, name) for name in TextCounts.__dataclass_fields__]
    if not all(isinstance(number, int) and number >= 0 for number in numbers if number is not None):
        raise UsageError(f"{path} has counts of {split} that are no numbers: prepare the data again, or remove it")
    return counts
