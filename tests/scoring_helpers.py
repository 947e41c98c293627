"""For tests of evaluation: a text of given tokens, its losses in order, and what the reference says they are."""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from fairseq.data import Dictionary
from reference import ReferenceConfig, Weights, stream_nll
from torch import Tensor

from lamemo_fairseq.data.text import Text
from lamemo_fairseq.evaluation.plan import EvaluationPlan
from lamemo_fairseq.evaluation.scoring import LossAccumulator


class Lines(NamedTuple):
    """An indexed dataset as ``Text`` sees it."""

    lines: List[Tensor]

    @property
    def sizes(self) -> List[int]:
        return [len(line) for line in self.lines]

    def __getitem__(self, index: Any) -> Any:
        return self.lines[index]


def text_of(lines: List[List[int]]) -> Text:
    """A split with these lines of ids."""
    return Text(Lines([torch.tensor(line) for line in lines]), "test")


def random_text(total: int, symbols: int, seed: int = 0, line: int = 7) -> Text:
    """``total`` tokens of a dictionary of ``symbols``, among them ends of line, in lines of ``line``."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, symbols, (total,), generator=generator)  # 0 and 1 never stand in a text
    return text_of([part.tolist() for part in tokens.split(line)])


def ignore(tally: LossAccumulator) -> None:
    """Checks the account as the commands do."""
    tally.score.check()


def losses(
    model: Any, text: Text, plan: EvaluationPlan, dictionary: Dictionary, workers: int = 0
) -> Tuple[Tensor, LossAccumulator]:
    """Loss of each target of the plan's shard, in the text's order, and the account."""
    batches = plan.batches(text, dictionary, ignore, workers)
    streams: List[List[Tensor]] = [[] for _ in range(plan.streams)]
    with torch.no_grad():
        for batch in batches:
            answers, _ = model(**batch["net_input"], targets=batch["target"])
            batch["tally"].take(answers)
            for stream, target in enumerate(batch["target"]):
                streams[stream].append(-answers[stream][target != dictionary.pad()])
    return torch.cat([part for stream in streams for part in stream]).double(), batches.tally


def reference_losses(
    cfg: ReferenceConfig,
    weights: Weights,
    text: Text,
    plan: EvaluationPlan,
    eos: int,
    documents: Optional[Tensor] = None,
) -> Tensor:
    """The same from the slow reference: each stream from where its warm-up begins."""
    tokens = torch.cat([torch.tensor([eos]), text.span(0, text.total)])  # [1 + total]: sources, shifted by one
    streams = plan.streams * plan.shards
    share = -(-text.total // streams)
    warmup = plan.memory + plan.context if plan.warmup is None else plan.warmup
    lead = warmup % plan.tokens if streams > 1 else 0  # a short segment, so that a warm-up ends with one
    found = []
    for first in range(0, text.total, share):
        begin, end = max(0, first - warmup), min(first + share, text.total)
        short = min(lead, end - begin)
        whole, rest = divmod(end - begin - short, plan.tokens)
        lengths = [short] * (short > 0) + [plan.tokens] * whole + [rest] * (rest > 0)
        numbers = None if documents is None else documents[None, begin:end]
        stream = tokens[None, begin : end + 1]
        nll = stream_nll(cfg, weights, stream, lengths, context=plan.context, documents=numbers)
        found.append(nll[0, first - begin :])
    return torch.cat(found)
