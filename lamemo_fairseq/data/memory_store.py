"""Carries memory between segments.

A store holds the memory of the B streams of one split, which are read in step: one state per decoder (per model of
an ensemble). Nothing of another split ever enters it. Training commits after a successful optimizer step only: see
``training/train_step.py``.
"""

from typing import Any, Dict, Iterable, NamedTuple, Optional, Sequence

from torch import Tensor

from ..core.memory import MemoryState


class CommittedState(NamedTuple):
    """What a segment left: a state, and the number of the segment that may continue it (0: it stands before the text).

    ``alphas`` are for metrics: per layer that looked ahead, the weight [B, H, M] of the slots' earlier attention.
    """

    following: int
    state: MemoryState
    alphas: Sequence[Tensor] = ()


class MemoryStore:
    """The memory of one split's streams, from segment to segment.

    Each state is kept with the number of the segment that may continue it. Any other number, or another number
    of streams, starts afresh: after a jump the memory would belong to another text.

    Args:
        name: the split's name, as users know it (``train``, ``valid``, ...).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.committed: Dict[Any, CommittedState] = {}

    def latest(self, decoder: Any) -> Optional[CommittedState]:
        """The state that ``decoder`` left last."""
        return self.committed.get(decoder)

    def continues(self, last: CommittedState, segment: int) -> bool:
        """Whether ``segment`` may be read behind ``last``."""
        return segment == last.following

    def recall(self, decoder: Any, segment: int, streams: int) -> Optional[MemoryState]:
        """The state that ``segment`` continues, or None where it starts with an empty memory."""
        last = self.latest(decoder)
        if segment == 0 and last is not None and last.following != 0:
            self.committed.pop(decoder, None)  # of another pass over the text
            return None
        if last is None or last.state.streams not in (0, streams) or not self.continues(last, segment):
            return None
        return last.state

    def keep(self, decoder: Any, segment: int, state: MemoryState, alphas: Sequence[Tensor] = ()) -> None:
        """Stores the state that ``segment`` left."""
        self.committed[decoder] = CommittedState(segment + 1, state, alphas)

    def bytes_held(self) -> int:
        """Size of the memory that is held now, of all decoders."""
        return sum(
            tensor.numel() * tensor.element_size() for left in self.held() for tensor in left.state.tensors.values()
        )

    def held(self) -> Iterable[CommittedState]:
        """The states that the decoders left last."""
        return self.committed.values()


def attach(batch: Dict[str, Any], store: MemoryStore) -> Dict[str, Any]:
    """The batch with the store whose memory it continues.

    The decoder reads its state from the store and leaves the next one there, because fairseq has no other way in or
    out: its criteria and its ``SequenceScorer`` call ``model(**net_input)``, and of what that returns only a loss,
    numbers to log, or scores come back. Below the decoder a state is a value that goes in and comes out.
    """
    if not batch:
        return batch
    return {**batch, "net_input": {**batch["net_input"], "store": store}}
