"""Which memory a segment continues.

A stream set is what is read in step: the B rows of one split. Each keeps one state per reader (per model of an
ensemble), and nothing of another set ever enters it. Training reads in updates that may fail, so a state counts
only once its update was made.
"""

import logging
from typing import Any, Dict, NamedTuple, Optional, Sequence

from torch import Tensor

from ..core.memory import MemoryState

logger = logging.getLogger(__name__)


class CommittedState(NamedTuple):
    """A state, and the number of the segment that follows what it has read."""

    following: int
    state: MemoryState


class MemoryStore:
    """The memory of one stream set, from segment to segment.

    Each state is kept with the number of the segment that may continue it. Any other number, or another number
    of streams, starts afresh: after a jump the memory would belong to another text. Within training there is one
    exception: updates that were dropped (overflow, lack of memory) leave the memory as it was before them, and
    the segment after them continues from there.

    Args:
        name: the set's name, as users know it (``train``, ``valid``, ...).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.committed: Dict[Any, CommittedState] = {}
        self.pending: Dict[Any, CommittedState] = {}
        self.in_update = False
        #: what a resumed run must do before this stream is read on
        self.resumption: Optional[Any] = None
        self.alphas: Sequence[Tensor] = ()

    def recall(self, decoder: Any, segment: int, streams: int) -> Optional[MemoryState]:
        """The state that ``segment`` continues, or None where it starts with an empty memory."""
        if segment == 0:
            self.committed.pop(decoder, None)  # of another pass over the text
            return None
        last = self.pending.get(decoder, self.committed.get(decoder))
        if last is None or last.state.streams not in (0, streams):
            return None
        dropped = segment - last.following
        if dropped < 0 or (dropped > 0 and not self.in_update):
            return None
        if dropped > 0:
            logger.info("%s: segment %d continues the memory from before %d dropped", self.name, segment, dropped)
        return last.state

    def keep(self, decoder: Any, segment: int, state: MemoryState, alphas: Sequence[Tensor] = ()) -> None:
        """What ``segment`` left behind. Within an update it waits for :meth:`commit`.

        ``alphas`` are for metrics: per layer that looked ahead, the weight [B, H, M] of what was known before.
        """
        self.alphas = alphas
        (self.pending if self.in_update else self.committed)[decoder] = CommittedState(segment + 1, state)

    def begin_update(self) -> None:
        """An update begins; what an unfinished one left is dropped."""
        self.pending.clear()
        self.in_update = True

    def commit(self) -> None:
        """The update was made: what its segments left is kept, unless it would poison all that follows."""
        for decoder, committed in self.pending.items():
            if committed.state.is_finite():
                self.committed[decoder] = committed
            else:
                logger.warning(
                    "%s: the memory after segment %d is not finite: dropped", self.name, committed.following - 1
                )
        self.pending.clear()
        self.in_update = False

    def bytes_held(self) -> int:
        """Size of the memory that is held now, of all readers."""
        latest = {**self.committed, **self.pending}
        return sum(
            t.numel() * t.element_size() for committed in latest.values() for t in committed.state.tensors.values()
        )


def attach(batch: Dict[str, Any], stream: MemoryStore) -> Dict[str, Any]:
    """The batch with the memory that it continues."""
    if not batch:
        return batch
    return {**batch, "net_input": {**batch["net_input"], "stream": stream}}
