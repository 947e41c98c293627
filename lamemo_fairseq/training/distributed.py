"""Collectives over ranks: gathering the memory of all streams, and objects that each rank must know.

Every function here is a meeting: all ranks of the default process group call it at the same point, or all hang.
Without a process group there is one rank, and nothing is sent.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.errors import UsageError
from ..core.memory import MemoryState
from ..data.memory_store import CommittedState


def ranks() -> int:
    """K, the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0 to K - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather_object(value: Any) -> List[Any]:
    """The ``value`` of every rank, in order, on every rank. For small things: each goes to each."""
    if not dist.is_initialized():
        return [value]
    values: List[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def first_for_all(work: Callable[[], None]) -> None:
    """Rank 0 does ``work``, such as a look at a file; its ``UsageError`` is raised on all ranks, so that none waits."""
    message = None
    if rank() == 0:
        try:
            work()
        except UsageError as error:
            message = str(error)
    message = all_gather_object(message)[0]
    if message is not None:
        raise UsageError(message)


def gather_batch_to_rank0(tensor: Tensor) -> Optional[Tensor]:
    """The tensor [B, ...] of all ranks as [K * B, ...] in main memory, on rank 0; None on the others."""
    if not dist.is_initialized():
        return tensor.cpu().clone()
    parts = [torch.empty_like(tensor) for _ in range(ranks())] if rank() == 0 else None
    dist.gather(tensor.contiguous(), parts, dst=0)
    return None if parts is None else torch.cat([part.cpu() for part in parts])


def describe(state: MemoryState) -> List[Tuple[str, List[int], str]]:
    """Names, shapes and types of a state's tensors."""
    tensors = dict(state.tensors) if state.documents is None else {**state.tensors, "documents": state.documents}
    return [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()]


def gather_memory_to_rank0(committed: Optional[CommittedState]) -> Optional[Dict[str, Any]]:
    """The memory of all ranks' streams as one, ready for a checkpoint; None on all ranks but the first.

    None there as well where ranks hold memories of different length, as after a lack of memory on one of them.
    Goes tensor by tensor, so that no device holds more than one tensor of all ranks at once.
    """
    facts = (
        None if committed is None else (describe(committed.state), committed.state.length, committed.state.last_written)
    )
    everyones = all_gather_object((facts, 0 if committed is None else committed.following))
    if committed is None or any(other != facts for other, _ in everyones):
        return None
    whole = {name: gather_batch_to_rank0(tensor) for name, tensor in committed.state.tensors.items()}
    documents = None if committed.state.documents is None else gather_batch_to_rank0(committed.state.documents)
    if rank() > 0:
        return None
    return {
        "following": min(following for _, following in everyones),  # where one rank dropped an update, it lags
        "tensors": whole,
        "length": committed.state.length,
        "added": committed.state.last_written,
        "documents": documents,
    }
