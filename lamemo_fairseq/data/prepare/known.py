"""Published counts of a corpus: what a text is compared with, and what evaluation divides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import UsageError
from .binarize import count_tokens


@dataclass(frozen=True)
class Known:
    """Published counts; what is left out is not known.

    Attributes:
        tokens: of each split, ``</s>`` included.
        types: different tokens of train, ``</s>`` included.
        words: of each split's original text.
    """

    tokens: Mapping[str, int] = field(default_factory=dict)
    types: int | None = None
    words: Mapping[str, int] = field(default_factory=dict)

    def check_tokens(self, source: str, split: str, found: int) -> None:
        """Raises ``UsageError`` where a split of ``source`` has not as many tokens as were published."""
        expected = self.tokens.get(split, found)
        if found != expected:
            raise UsageError(f"{source} has {expected:,} tokens in {split}, not {found:,}: this is another text")

    def check_types(self, source: str, text: Path, line_ends: bool) -> None:
        """Raises ``UsageError`` where the tokens in ``text`` (and ``</s>``, with ``line_ends``) are of other types."""
        if self.types is None:
            return
        found = len(count_tokens(text)) + line_ends
        if found != self.types:
            raise UsageError(f"{source} has {self.types:,} types in train, not {found:,}: this is another text")

    def words_of(self, split: str, found: int) -> int:
        """Words of a split that perplexity per word is to be divided by: those that were published, or ``found``."""
        words = self.words.get(split, found)
        if words != found:
            print(f"  {split}: perplexity per word is divided by the {words:,} words that were published")
        return words
