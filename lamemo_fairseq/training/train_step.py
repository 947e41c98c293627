"""A training step as one transaction: what an update reads enters the memory if, and only if, the update is made.

==============  ====================================================================================================
``begin``       gradients are cleared, so an update begins, or begins once more: what is pending is rolled back
``run``         reads a micro-batch; what it leaves is pending, and continued by the next one of the same update
``make``        the optimizer steps; the memory commits what is pending if the weights changed
``roll_back``   drops what is pending: after an overflow, after lack of memory, before an update is tried again
==============  ====================================================================================================

Fairseq's trainer clears the gradients in exactly the cases in which the memory must be rolled back, so that
:meth:`TrainingMemory.begin` is called from its ``zero_grad`` (see ``plugin/fairseq_patches.py``).
"""

import logging
from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple

import torch
from fairseq.optim import AMPOptimizer
from torch import Tensor

from ..core.errors import UsageError
from ..core.free_memory import free_bytes
from ..core.memory import Memory, MemoryState
from ..data.memory_store import CommittedState, MemoryStore, attach
from .distributed import rank, ranks

logger = logging.getLogger(__name__)

Stepped = Tuple[Tensor, Any, Dict[str, Any]]  # loss, sample size, logging output


class TrainingMemory(MemoryStore):
    """The memory of the text that is trained on; updates of the weights are its transactions.

    A segment may also continue a memory from before some that were dropped: their text is not in it, but it is the
    same stream.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pending: Dict[Any, CommittedState] = {}

    def latest(self, decoder: Any) -> Optional[CommittedState]:
        """The state that ``decoder`` left last, in this update or before it."""
        return self.pending.get(decoder, self.committed.get(decoder))

    def held(self) -> Iterable[CommittedState]:
        """The states that the decoders left last."""
        return {**self.committed, **self.pending}.values()

    def continues(self, last: CommittedState, segment: int) -> bool:
        """Whether ``segment`` may be read behind ``last``."""
        dropped = segment - last.following
        if dropped > 0:
            logger.info("%s: segment %d continues the memory from before %d dropped", self.name, segment, dropped)
        return dropped >= 0

    def keep(self, decoder: Any, segment: int, state: MemoryState, alphas: Sequence[Tensor] = ()) -> None:
        """Holds the state that ``segment`` left until :meth:`commit`."""
        self.pending[decoder] = CommittedState(segment + 1, state, alphas)

    def begin(self) -> None:
        """An update begins; what an unfinished one left is dropped."""
        self.roll_back()

    def roll_back(self) -> None:
        """Drops what this update has read."""
        self.pending.clear()

    def commit(self) -> None:
        """The update was made: what its segments left is kept, unless it would poison all that follows."""
        for decoder, left in self.pending.items():
            if left.state.is_finite():
                self.committed[decoder] = left
            else:
                logger.warning("%s: the memory after segment %d is not finite: dropped", self.name, left.following - 1)
        self.pending.clear()

    def run(self, step: Callable[..., Stepped], sample: Dict[str, Any], optimizer: Any, ignore_grad: bool) -> Stepped:
        """Forward and backward pass of a micro-batch; one with ``ignore_grad`` is a dummy and has no memory.

        Where the memory of one of several ranks' devices is not enough, its step counts nothing. Alone, fairseq
        drops the update and goes on. Among others it does not get through: the rank has nothing to send where they
        wait for its logging outputs, or for its gradients. So it sends zeros, and what it had gathered in earlier
        micro-batches of the update is lost, as fairseq has it too.
        """
        try:
            return step(sample if ignore_grad else attach(sample, self), ignore_grad=ignore_grad)
        except RuntimeError as error:
            if ranks() == 1 or "out of memory" not in str(error):
                raise
            reason = str(error).splitlines()[0]
        # Here the exception is gone, and with it what it kept alive.
        logger.warning("rank %d ran out of memory, and leaves out its part of this update: %s", rank(), reason)
        optimizer.zero_grad()
        self.roll_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        loss, sample_size, output = step(one_token(sample), ignore_grad=True)
        return loss, sample_size * 0, {name: value * 0 for name, value in output.items()}

    def make(self, step: Callable[[], None], optimizer: Any) -> None:
        """Makes the optimizer's ``step``, and commits if it changed the weights.

        After an overflow most optimizers do not come here. That of ``--amp`` does, lowers its scale and makes no step.
        """
        scale = optimizer.scaler.get_scale() if isinstance(optimizer, AMPOptimizer) else None
        step()
        if scale is None or optimizer.scaler.get_scale() >= scale:
            self.commit()


def one_token(sample: Dict[str, Any]) -> Dict[str, Any]:
    """One token of ``sample``, which belongs to no stream."""
    inputs = {"src_tokens": sample["net_input"]["src_tokens"][:1, :1], "src_lengths": torch.ones(1, dtype=torch.long)}
    return {**sample, "net_input": inputs, "target": sample["target"][:1, :1], "ntokens": 1, "nsentences": 1}


def check_room(memory: Memory, streams: int, like: Tensor) -> None:
    """Raises ``UsageError`` where the memory of ``streams``, once full and typed as ``like``, would not fit twice.

    Twice: a segment's new memory is made while the old one is still held.
    """
    held, free = memory.full_bytes(streams, like), free_bytes(like.device)
    if 2 * held > free:
        raise UsageError(
            f"--mem-len {memory.mem_len} with {streams} streams per rank (--batch-size) holds "
            f"{held / 2**30:.1f} GiB of memory, twice while it is renewed, and {free / 2**30:.1f} GiB are free on "
            f"{like.device}: lower one of them"
        )
