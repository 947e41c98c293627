"""Batches of prompts: the beginnings of a split's blocks for ``fairseq-generate``, typed lines for the rest.

Letters as in ``session.py``.
"""

import logging
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils, iterators
from torch import Tensor

from ..core.errors import UsageError
from ..data.text import Text
from .history import History

logger = logging.getLogger(__name__)


class PromptLines(FairseqDataset):
    """Typed prompts, longest first, so that those of a batch are alike.

    Args:
        tokens: [n] of each line; a line of none has no prompt, and is passed over.
        pad: fills up a batch.
        in_order: as they were typed instead.
    """

    def __init__(self, tokens: Sequence[Tensor], pad: int, in_order: bool = False) -> None:
        self.lines = [number for number, prompt in enumerate(tokens) if len(prompt) > 0]
        self.tokens, self.pad, self.in_order = tokens, pad, in_order

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        return {"id": self.lines[index], "prompt": self.tokens[self.lines[index]]}

    def num_tokens(self, index: int) -> int:
        return int(self.tokens[self.lines[index]].numel())

    size = num_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.num_tokens(index) for index in range(len(self)))

    def ordered_indices(self) -> np.ndarray:
        if self.in_order:
            return np.arange(len(self))
        lengths = np.array([self.num_tokens(index) for index in range(len(self))], dtype=np.int64)
        return np.argsort(-lengths, kind="stable")

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """``src_tokens`` [B, P], padded on the right, and ``src_lengths`` [B]."""
        if not samples:
            return {}
        prompts = [sample["prompt"] for sample in samples]
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "net_input": {
                "src_tokens": data_utils.collate_tokens(prompts, self.pad),
                "src_lengths": torch.tensor([len(prompt) for prompt in prompts]),
            },
            "target": None,
        }


class PromptBlocks(FairseqDataset):
    """Consecutive blocks of a split; each begins with its prompt, and goes on as the text really does.

    Args:
        text: the split.
        prefix: tokens of a block that are given.
        segment: N; blocks are whole segments, the fewest that hold a prompt.
        blocks: those that are continued, as ``--prompt-blocks`` names them; None for all.
    """

    def __init__(self, text: Text, prefix: int, segment: int, pad: int, blocks: Optional[str] = None) -> None:
        if prefix > text.total:
            raise UsageError(
                f"--prefix-size {prefix} is more than the split has, {text.total} tokens, and leaves none to continue: "
                "choose a smaller one"
            )
        self.text, self.prefix, self.pad = text, prefix, pad
        self.segments = -(-prefix // segment)
        self.block = self.segments * segment
        total = -(-text.total // self.block)
        self.chosen = block_range(blocks, total)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        number = self.chosen[index]
        begin = number * self.block
        return {"id": number, "block": self.text.span(begin, min(begin + self.block, self.text.total))}

    def num_tokens(self, index: int) -> int:
        return self.block

    size = num_tokens

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """``target`` [B, n], the blocks; ``src_tokens`` [B, P] and ``src_lengths`` [B], their prompts."""
        if not samples:
            return {}
        target = data_utils.collate_tokens([sample["block"] for sample in samples], self.pad)
        lengths = torch.tensor([min(len(sample["block"]), self.prefix) for sample in samples])
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "net_input": {"src_tokens": target[:, : self.prefix], "src_lengths": lengths},
            "target": target,
        }


def block_range(blocks: Optional[str], total: int) -> range:
    """Which of ``total`` blocks ``--prompt-blocks FIRST:END`` names; None names all."""
    if blocks is None:
        return range(total)
    first, colon, end = blocks.partition(":")
    if not first.isdigit() or (colon and not end.isdigit()):
        raise UsageError(f"--prompt-blocks {blocks} is no range of blocks: write it as e.g. 300:310, or 300 for one")
    chosen = range(int(first), int(end) if colon else int(first) + 1)
    if not chosen or chosen[-1] >= total:
        raise UsageError(f"--prompt-blocks {blocks} is not within the split, which has {total} blocks: choose fewer")
    return chosen


class HistoricBatches:
    """Batches of blocks, each with the history that it continues; stands for fairseq's epoch iterator.

    The history is handed on in the main process: workers that collate batches would each read a text of their own.
    """

    def __init__(self, batches: iterators.EpochBatchIterator, history: History, segments: int) -> None:
        self.batches, self.history, self.segments = batches, history, segments

    def next_epoch_itr(self, shuffle: bool = False, **unused: Any) -> iterators.CountingIterator:
        """The batches, in the order of the text."""
        batches = self.batches.next_epoch_itr(shuffle=False)
        return iterators.CountingIterator(self.attach(batches), start=0, total=len(batches))

    def attach(self, batches: Any) -> Iterator[Dict[str, Any]]:
        """Each batch with ``history``, and ``first_segment`` [B] of its blocks."""
        for batch in batches:
            if batch:
                batch = {**batch, "history": self.history, "first_segment": batch["id"] * self.segments}
            yield batch


def warn_of_other_segments(tokens: int, trained: int) -> None:
    """Says when ``--tokens-per-sample`` is not the one that a checkpoint was trained with."""
    if tokens != trained:
        logger.warning(
            "--tokens-per-sample %d, but the model was trained with %d: its memory is refreshed at other places",
            tokens,
            trained,
        )
