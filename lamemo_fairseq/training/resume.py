"""Saves and restores position and memory of a training run.

Fairseq saves and restores its iterator over the training text. The iterator here carries the memory of all ranks'
streams with it, and what must be the same for that memory to mean anything. Where it is not the same, or where
the memory was left out, the segments before are read again, and one line says so.
"""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq import utils
from fairseq.optim import AMPOptimizer

from ..core.memory import Memory, MemoryState
from ..data.iterator import OrderedBatches
from ..data.layout import Layout
from ..data.memory_store import CommittedState, MemoryStore, attach
from ..data.segments import Segments
from .distributed import gather_memory_to_rank0, rank
from .train_step import TrainingMemory

logger = logging.getLogger(__name__)


class StreamIterator(OrderedBatches):
    """The batches of a split, and in a checkpoint the memory with which training stands there.

    Args:
        segments, streams, num_shards, shard_id, num_workers, epoch: as for ``OrderedBatches``.
        save_memory: whether checkpoints hold the memory.

    Attributes:
        resumption: what a run that goes on here has to do before its first update; None where it begins.
    """

    def __init__(
        self,
        segments: Segments,
        streams: int,
        num_shards: int,
        shard_id: int,
        num_workers: int,
        epoch: int,
        save_memory: bool,
    ) -> None:
        super().__init__(segments, streams, num_shards, shard_id, num_workers, epoch)
        self.save_memory = save_memory
        self.gathered: Optional[Dict[str, Any]] = None
        self.resumption: Optional[Resumption] = None

    def gather(self, store: MemoryStore) -> None:
        """Brings all ranks' memory of the training text to the first, for :meth:`state_dict`. All ranks meet here."""
        self.gathered = None
        if not self.save_memory or self.end_of_epoch():
            return
        assert len(store.committed) <= 1, "only the model that is trained reads the training text"
        decoder, committed = next(iter(store.committed.items()), (None, None))
        memory = gather_memory_to_rank0(committed)
        if memory is not None and decoder is not None:
            self.gathered = {**memory, "made_with": decoder.memory.made_with}
        elif rank() == 0:
            logger.warning("the ranks' memories differ in length, so this checkpoint holds none")

    def state_dict(self) -> Dict[str, Any]:
        """Position and memory, of tensors and plain numbers only."""
        state = super().state_dict()
        layout = self.dataset.layout
        state["streams"] = {
            **describe(layout, self.num_shards),
            "read": layout.boundaries[state["iterations_in_epoch"]],
        }
        state["streams"]["memory"] = self.gathered
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Goes on where a checkpoint was written; :attr:`resumption` then fills the memory."""
        self.resumption = Resumption.plan(state_dict, self)
        super().load_state_dict({**state_dict, "iterations_in_epoch": self.resumption.segment})

    def batches_before(self, segment: int, tokens: int) -> List[Dict[str, Any]]:
        """This rank's batches before ``segment``, as many as hold ``tokens`` tokens of each stream."""
        boundaries = self.dataset.layout.boundaries
        first = segment
        while first > 0 and boundaries[segment] - boundaries[first] < tokens:
            first -= 1
        numbers = range(first * self.num_shards + self.shard_id, segment * self.num_shards, self.num_shards)
        return [self.collate_fn([self.dataset[item] for item in self.frozen_batches[number]]) for number in numbers]


def describe(layout: Layout, ranks: int) -> Dict[str, Any]:
    """What must be the same for a memory to fit a position, by the names that checkpoints of all versions have."""
    boundaries = hashlib.sha256(np.asarray(layout.boundaries, dtype=np.int64).tobytes()).hexdigest()
    return {"total": layout.total, "rows": layout.streams, "offset": layout.offset, "cuts": boundaries, "ranks": ranks}


def differences(saved: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    """What is not as it was when the checkpoint was written, in the words of the flags."""
    found = []
    if saved["total"] != now["total"]:
        found.append(f"{now['total']} tokens of text (was {saved['total']})")
    if saved["rows"] != now["rows"]:
        found.append(f"{now['rows']} streams over all ranks (was {saved['rows']})")
    elif saved["cuts"] != now["cuts"]:
        found.append("other segments (--tokens-per-sample, --varlen)")
    if saved["offset"] != now["offset"]:
        found.append("another beginning (--random-offset, --seed)")
    return found


def flag(name: str) -> str:
    """A field of the configuration, as the command line spells it."""
    return name.replace("_", "-")


def changed_flags(saved: Dict[str, Any], memory: Memory) -> Dict[str, Tuple[Any, Any]]:
    """What flags of a saved memory were and are in ``memory``, of those that changed."""
    # What an earlier version saved lacks the flags that came since: it had what are their defaults now.
    was, now = {**memory.made_by_default, **saved["made_with"]}, memory.made_with
    return {name: (was.get(name), now[name]) for name in now if was.get(name) != now[name]}


def same_place(saved: Dict[str, Any], layout: Layout) -> int:
    """The segment that holds the place at which a checkpoint was written, in another layout."""
    read = saved["rows"] * saved["read"] / saved["total"]  # the part of the epoch that was read
    place = read * layout.total / layout.streams
    return min(int(np.searchsorted(layout.boundaries, place, side="right")) - 1, layout.segments - 1)


@dataclass
class Resumption:
    """What a resumed run still has to do before its first update.

    Attributes:
        segment: where it goes on.
        was: where it was, if that has another number.
        iterator: the text.
        memory: as saved, of all ranks; None where there is none that fits.
        changes: what is not as it was, in words.
    """

    segment: int
    was: int
    iterator: StreamIterator
    memory: Optional[Dict[str, Any]]
    changes: List[str]

    @staticmethod
    def plan(state: Dict[str, Any], iterator: StreamIterator) -> "Resumption":
        """From an iterator's saved ``state``."""
        was = state["iterations_in_epoch"]
        if "streams" not in state:
            changes = ["the checkpoint was written by another task, so this epoch begins anew"]
            return Resumption(0, was, iterator, None, changes)
        saved, layout = state["streams"], iterator.dataset.layout
        changes = differences(saved, describe(layout, iterator.num_shards))
        if changes:
            return Resumption(same_place(saved, layout), was, iterator, None, changes)
        if saved["memory"] is None:
            changes = ["the checkpoint holds no memory (--no-save-memory)"]
        elif saved["ranks"] != iterator.num_shards:
            logger.info("resume: the same streams, on %d ranks (was %d)", iterator.num_shards, saved["ranks"])
        return Resumption(was, was, iterator, saved["memory"], changes)

    def finish(self, memory: TrainingMemory, model: Any, optimizer: Any) -> None:
        """Fills ``memory`` for ``model``: as saved, or by reading the segments before once more."""
        decoder = model.decoder
        changed = {} if self.memory is None else changed_flags(self.memory, decoder.memory)
        if changed:
            self.changes = [f"--{flag(name)} {now} (was {was})" for name, (was, now) in changed.items()]
            self.memory = None
        where = (
            f"resume: epoch {self.iterator.epoch}, segment {self.segment} of {self.iterator.dataset.layout.segments}"
        )
        if self.memory is not None:
            memory.committed[decoder] = self.own_streams(self.memory)
            logger.info("%s, with the memory as it was saved", where)
            return
        if self.segment == 0 and not self.changes:
            logger.info("%s, the beginning: no memory is needed", where)
            return
        batches = self.iterator.batches_before(self.segment, decoder.memory.span)
        logger.warning(
            "%s (was %d): %s. Memory is refilled by replaying %d segments: close to what it was, not exactly",
            where,
            self.was,
            "; ".join(self.changes),
            len(batches),
        )
        device = next(model.parameters()).device
        mixed = isinstance(optimizer, AMPOptimizer) and device.type == "cuda"  # as the trainer's own steps
        model.train()
        memory.begin()
        with torch.no_grad(), torch.autocast(device.type, enabled=mixed):
            for batch in batches:
                batch = attach(utils.apply_to_sample(lambda tensor: tensor.to(device), batch), memory)
                model(**batch["net_input"])
        memory.commit()

    def own_streams(self, memory: Dict[str, Any]) -> CommittedState:
        """This rank's part of the memory of all ranks."""
        first = self.iterator.shard_id * self.iterator.streams
        whole = MemoryState(memory["tensors"], memory["length"], memory["added"], memory["documents"])
        # Checkpoints of earlier versions hold streams without text too.
        end = first + self.iterator.dataset.streams_read(self.iterator.streams)
        return CommittedState(memory["following"], whole.map(lambda tensor: tensor[first:end].clone()))
