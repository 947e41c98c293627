"""Warnings about a text and its layout: streams too short for a memory, documents that nothing ends."""

import logging

from fairseq.data import Dictionary

from ..core.documents import Separator
from .documents import Documents
from .layout import Layout
from .text import Text

logger = logging.getLogger(__name__)


def warn_of_short_streams(layout: Layout, split: str, tokens: int, ranks: int, context: int = 0) -> None:
    """Streams of one segment or less: nothing is ever remembered.

    Args:
        layout: how the split is laid out.
        split: its name.
        tokens: new tokens of a segment: ``--tokens-per-sample`` less ``context``.
        ranks: processes that share the streams.
        context: ``--context-window``.
    """
    each = -(-layout.total // layout.streams)
    if layout.streams == 1 or each > tokens:
        return
    window = f" with --context-window {context}" if context else ""
    largest = (layout.total - 1) // tokens // ranks
    way_out = f"--batch-size {largest} or less, or " if largest > 0 else ""
    logger.warning(
        "split %s: %d streams (--batch-size times ranks) of %d tokens hold %d each, --tokens-per-sample is %d%s, "
        "so that no stream has a second segment to use its memory in: choose %sshorter segments",
        *(split, layout.streams, layout.total, each, tokens + context, window, way_out),
    )


def find_documents(text: Text, separator: Separator, dictionary: Dictionary) -> Documents:
    """The documents of a split, with a warning where it is all one document.

    Args:
        text: the split.
        separator: what ends a document.
        dictionary: of its symbols.
    """
    documents = Documents.find(text, separator)
    if len(documents.begins) == 1:
        symbol = separator.symbol
        looked_for = "a blank line" if symbol is None else f"--document-separator {dictionary[symbol]}"
        logger.warning(
            "split %s: --memory-reset document clears no memory, since %s stands nowhere in its %d tokens: name what "
            "ends a document with --document-separator, or leave --memory-reset out",
            *(text.name, looked_for, text.total),
        )
    return documents
