"""Which memory a segment continues.

A stream set is what is read in step: the B rows of one split. Each keeps one state per reader (per model of an
ensemble), and nothing of another set ever enters it. Training reads in updates that may fail, so a state counts
only once its update was made.
"""

from typing import Any, Dict, NamedTuple, Optional, Tuple

from .memory import MemoryState


class Kept(NamedTuple):
    """A state, and the numbers of the segments that may continue it."""

    expected: Tuple[int, ...]
    state: MemoryState


class Pending(NamedTuple):
    """The state after the segments ``first`` to ``following - 1`` of an update that is not made yet."""

    first: int
    following: int
    state: MemoryState


class Stream:
    """The memory of one stream set, from segment to segment.

    Each state is kept with the number of the segment that may continue it. Any other number, or another number
    of streams, starts afresh: after a jump the memory would belong to another text.

    Args:
        name: the set's name, as users know it (``train``, ``valid``, ...).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: Dict[Any, Kept] = {}
        self.pending: Dict[Any, Pending] = {}
        self.in_update = False

    def recall(self, reader: Any, segment: int, streams: int) -> Optional[MemoryState]:
        """The state that ``segment`` continues, or None where it starts with an empty memory."""
        if segment == 0:
            return None
        if reader in self.pending:
            pending = self.pending[reader]
            expected: Tuple[int, ...] = (pending.following,)
            state = pending.state
        elif reader in self.kept:
            expected, state = self.kept[reader]
        else:
            return None
        if segment not in expected or state.streams not in (0, streams):
            return None
        return state

    def keep(self, reader: Any, segment: int, state: MemoryState) -> None:
        """What ``segment`` left behind. Within an update it waits for :meth:`commit`."""
        if not self.in_update:
            self.kept[reader] = Kept((segment + 1,), state)
            return
        first = self.pending[reader].first if reader in self.pending else segment
        self.pending[reader] = Pending(first, segment + 1, state)

    def begin_update(self) -> None:
        """An update begins; what an unfinished one left is dropped.

        The streams have moved on all the same, so the state from before is continued either by the segment
        that follows the dropped ones or, where the trainer tries again, by the first of them.
        """
        for reader, pending in self.pending.items():
            if reader in self.kept:
                state = self.kept[reader].state
                self.kept[reader] = Kept((pending.first, pending.following), state)
        self.pending.clear()
        self.in_update = True

    def commit(self) -> None:
        """The update was made: what its segments left is kept."""
        for reader, pending in self.pending.items():
            self.kept[reader] = Kept((pending.following,), pending.state)
        self.pending.clear()
        self.in_update = False


def attach(batch: Dict[str, Any], stream: Stream) -> Dict[str, Any]:
    """The batch with the memory that it continues."""
    if not batch:
        return batch
    return {**batch, "net_input": {**batch["net_input"], "stream": stream}}
