"""Finetuning that begins behind the memory of another training (``--finetune-memory``)."""

import logging
from typing import Any, Mapping

from ..core.errors import UsageError
from .resume import Resumption, StreamIterator, changed_flags, flag
from .train_step import TrainingMemory

logger = logging.getLogger(__name__)


def carry_memory(
    state: Mapping[str, Any], path: str, iterator: StreamIterator, memory: TrainingMemory, model: Any
) -> None:
    """Puts the memory that a checkpoint holds before the first segment of a new text, stream by stream.

    Args:
        state: the checkpoint's content.
        path: of its file, for messages.
        iterator: the new text, at its beginning.
        memory: of the training.
        model: that is trained.

    Raises:
        UsageError: the checkpoint holds no memory, or one that does not fit.
    """
    streams = state.get("extra_state", {}).get("train_iterator", {}).get("streams")
    saved = None if streams is None else streams["memory"]
    if saved is None:
        raise UsageError(
            f"--finetune-memory: {path} holds no memory, since it was written at an epoch's end, with --no-save-memory "
            "or by another task: name one from within an epoch (--save-interval-updates), or leave the flag out"
        )
    count = iterator.streams * iterator.num_shards
    if streams["rows"] != count:
        raise UsageError(
            f"--finetune-memory: {path} holds the memory of {streams['rows']} streams (--batch-size times ranks), "
            f"where {count} are trained: choose as many"
        )
    changed = changed_flags(saved, model.decoder.memory)
    if changed:
        flags = ", ".join(f"--{flag(name)} {was}" for name, (was, _) in changed.items())
        raise UsageError(f"--finetune-memory: {path} holds the memory of another model, with {flags}")
    if saved["documents"] is not None or iterator.dataset.documents is not None:
        raise UsageError(
            "--finetune-memory goes with --memory-reset never alone, in both trainings: documents are numbered by text"
        )
    left = Resumption(0, 0, iterator, saved, []).own_streams(saved)
    memory.committed[model.decoder] = left._replace(following=0)
    logger.info("the new text begins behind the memory of %s, of %d streams", path, count)
