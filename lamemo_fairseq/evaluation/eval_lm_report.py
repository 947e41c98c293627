"""Reports a score behind ``fairseq-eval-lm``'s own line. A host hook: nothing is counted here."""

import logging
from typing import Optional, Tuple

import torch
from torch import distributed

from ..data.counts import TextCounts
from .scoring import LossAccumulator, Score

logger = logging.getLogger(__name__)


def conclude(
    tally: LossAccumulator,
    text: Tuple[str, int],
    shards: Tuple[int, int],
    model: Optional[str],
    counts: Optional[TextCounts],
) -> None:
    """Adds up the scores of all ranks, checks them, and has rank 0 tell the result.

    Args:
        tally: this rank's account.
        text: the split's name, and the targets in it.
        shards: the number of parts into which the split was dealt, and which of them is this rank's.
        model: the checkpoint's name, for errors.
        counts: of the split's original text, where they are known; a shard alone is none of them.
    """
    (split, total), (count, shard) = text, shards
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    score = tally.score if ranks == 1 else over_ranks(tally.score)
    whole = ranks == count
    if whole:
        score.targets = total
    score.check(str(model))
    if whole:
        score = score.of_original(counts, split)
    part = ""
    if ranks > 1:
        part = f" ({ranks} ranks together; the loss above is rank 0's alone)"
    elif count > 1:
        part = f" ({score.targets} of them in shard {shard} of {count})"
    line = f"{split}: {total} targets in the split{part}, {score.line(tally.memory, tally.spelling.uses_subwords)}"
    if ranks == 1 or distributed.get_rank() == 0:
        logging.getLogger().addHandler(AfterLoss(line, score.unknown_warning(split)))


def over_ranks(score: Score) -> Score:
    """The sum of all ranks' scores; every rank must ask for it."""
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(score.values(), dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return Score(*(type(own)(value) for own, value in zip(score.values(), total.tolist())))


class AfterLoss(logging.Handler):
    """Logs a line, and a warning, once, right behind the loss that ``fairseq-eval-lm`` prints last.

    A handler, because nothing of a task is called behind that line: the last hook is the end of the batches, and what
    is logged there would stand before the loss. Handlers run in the order in which they were added, so the loss is out
    when this one sees it; it takes itself away.
    """

    def __init__(self, line: str, warning: Optional[str]) -> None:
        super().__init__()
        self.line, self.warning = line, warning

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "fairseq_cli.eval_lm" and record.getMessage().startswith("Loss (base 2)"):
            logging.getLogger().removeHandler(self)
            logger.info(self.line)
            if self.warning is not None:
                logger.warning(self.warning)
