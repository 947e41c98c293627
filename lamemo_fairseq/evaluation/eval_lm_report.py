"""The line that ``fairseq-eval-lm`` prints behind its own. A host hook: nothing is counted here."""

import logging

import torch
from torch import distributed

from .scoring import LossAccumulator, Score

logger = logging.getLogger(__name__)


def conclude(tally: LossAccumulator, split: str, total: int, shard: int, shards: int, model: str) -> None:
    """Adds up the scores of all ranks, checks them, and has rank 0 tell the result.

    Args:
        tally: this rank's account.
        split: the split's name.
        total: targets in the split.
        shard: this rank's shard.
        shards: parts into which the split was dealt.
        model: the checkpoint's name, for errors.
    """
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    score = tally.score if ranks == 1 else over_ranks(tally.score)
    if ranks == shards:
        score.targets = total
    score.check(model)
    part = ""
    if ranks > 1:
        part = f" ({ranks} ranks together; the loss above is rank 0's alone)"
    elif shards > 1:
        part = f" ({score.targets} of them in shard {shard} of {shards})"
    line = f"{split}: {total} targets in the split{part}, {score.line(tally.memory, tally.spelling.pieces)}"
    if ranks == 1 or distributed.get_rank() == 0:
        logging.getLogger().addHandler(AfterLoss(line))


def over_ranks(score: Score) -> Score:
    """The sum of all ranks' scores; every rank must ask for it."""
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(score.values(), dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return Score(*(type(own)(value) for own, value in zip(score.values(), total.tolist())))


class AfterLoss(logging.Handler):
    """Logs a line once, right behind the loss that ``fairseq-eval-lm`` prints last.

    Handlers run in the order in which they were added, so the loss is out when this one sees it.
    """

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "fairseq_cli.eval_lm" and record.getMessage().startswith("Loss (base 2)"):
            logging.getLogger().removeHandler(self)
            logger.info(self.line)
