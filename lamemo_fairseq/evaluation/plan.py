"""How a split is read to be scored, and the batches that follow from it. Knows no task and no model."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional, Union

from fairseq.data import Dictionary

from ..core.documents import Separator
from ..core.errors import UsageError
from ..data.checks import find_documents, warn_of_short_streams
from ..data.iterator import OrderedBatches
from ..data.layout import Layout
from ..data.memory_store import MemoryStore, attach
from ..data.segments import Segments
from ..data.sentences import Sentences
from ..data.spelling import Spelling
from ..data.text import Text
from .scoring import LossAccumulator, ScoredBatches


@dataclass(frozen=True)
class EvaluationPlan:
    """How a split is cut up.

    Attributes:
        tokens: new tokens in a segment.
        context: tokens before them that it reads once more (``--context-window``).
        streams: streams that are read side by side (``--batch-size``).
        memory: tokens that a full memory holds.
        warmup: tokens that a stream reads before its own (``--stream-warmup``); None: what fills the memory before the
            first of its own segments, ``memory + context``.
        shards: parts into which the streams are dealt, one to a process.
        shard: which of them.
        independent_lines: each line is read with an empty memory (``--sample-break-mode eos``).
        separator: what clears the memory (``--memory-reset document``); None: nothing.
    """

    tokens: int
    context: int = 0
    streams: int = 1
    memory: int = 0
    warmup: Optional[int] = None
    shards: int = 1
    shard: int = 0
    independent_lines: bool = False
    separator: Optional[Separator] = None

    def check(self) -> None:
        """Raises ``UsageError`` where nothing could be scored."""
        if self.context < 0:
            raise UsageError(f"--context-window {self.context} is too small: choose 0 or more")
        if self.tokens < 1:
            raise UsageError(
                f"--context-window {self.context} is not below --tokens-per-sample {self.tokens + self.context}, "
                "so that no token of a segment would be new: choose a smaller window, or longer segments"
            )
        if self.streams < 1:
            raise UsageError(f"--batch-size {self.streams} is too small: choose 1 or more")
        if not 0 <= self.shard < self.shards:
            raise UsageError(
                f"--shard-id {self.shard} is not one of --num-shards {self.shards}: choose 0 to {self.shards - 1}"
            )

    def cut(self, text: Text, dictionary: Dictionary) -> Union[Segments, Sentences]:
        """The text in segments."""
        pad, eos = dictionary.pad(), dictionary.eos()
        if self.independent_lines:
            return Sentences(text, self.streams, self.tokens, self.context, pad, eos)
        warmup = self.memory + self.context if self.warmup is None else self.warmup
        layout = Layout.even(text.total, self.streams * self.shards, self.tokens, self.context, warmup)
        if self.shard == 0:
            warn_of_short_streams(layout, text.name, self.tokens, self.shards, self.context)
        documents = None if self.separator is None else find_documents(text, self.separator, dictionary)
        return Segments(text, layout, pad, eos, documents)

    def batches(
        self,
        text: Text,
        dictionary: Dictionary,
        finish: Callable[[LossAccumulator], None],
        workers: int = 0,
    ) -> ScoredBatches:
        """The split in batches, each with the memory that it continues, accounted for as they are read."""
        self.check()
        segments = self.cut(text, dictionary)
        ordered = OrderedBatches(segments, self.streams, self.shards, self.shard, workers)
        loader = ordered.next_epoch_itr(shuffle=False)
        targets = segments.targets(self.shard, self.shards)
        tally = LossAccumulator(Spelling.of(dictionary), dictionary.pad(), self.memory, targets, self.tokens)
        return ScoredBatches(Attached(loader, MemoryStore(text.name)), tally, lambda: finish(tally))


class Attached:
    """Batches with the store whose memory they continue."""

    def __init__(self, batches: Any, store: MemoryStore) -> None:
        self.batches, self.store = batches, store

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        return (attach(batch, self.store) for batch in self.batches)
