"""What ``lamemo benchmark eval`` times: segments that are scored, and training steps on the same shapes."""

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List

import torch
from torch import Tensor

from ..data.memory_store import MemoryStore
from ..data.text import Text
from ..evaluation.plan import EvaluationPlan
from ..evaluation.scoring import score_batches
from ..plugin.decoder import LaMemoDecoder
from ..plugin.model import LaMemoLanguageModel
from .models import update

Clock = Callable[[], float]


@dataclass(frozen=True)
class Lines:
    """A text of one line, as fairseq's datasets look."""

    tokens: Tensor
    sizes: List[int]

    def __getitem__(self, index: int) -> Tensor:
        return self.tokens


def text_of(tokens: int, symbols: int) -> Text:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    return Text(Lines(torch.randint(4, symbols, (tokens,), generator=generator), [tokens]), "random")


class Subject:
    """A model that is trained and evaluated, segment by segment.

    Args:
        decoder: its decoder.
        segment: tokens in a segment.
        device: where it runs.
        clock: gives seconds.
    """

    def __init__(self, decoder: LaMemoDecoder, segment: int, device: str, clock: Clock = time.perf_counter) -> None:
        self.model, self.segment, self.device, self.clock = LaMemoLanguageModel(decoder), segment, device, clock
        dictionary: Any = decoder.dictionary  # to a type checker, whatever a module may hold
        self.symbols = len(dictionary)
        # As many segments fill the memory, so that it does not grow any more.
        self.filling = -(-decoder.memory.mem_len // segment) + 1
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def training(self, streams: int, segments: int) -> List[float]:
        """Seconds of training steps behind a full memory: forward, loss, backward, clipping, Adam."""
        plan, store = EvaluationPlan(self.segment, streams=streams, warmup=0), MemoryStore("train")
        text = text_of(streams * (self.filling + segments) * self.segment, self.symbols)
        cut = plan.cut(text, self.model.decoder.dictionary)
        self.model.train()
        times = []
        for items in cut.batches(streams, 1):
            batch = cut.collater([cut[item] for item in items])
            began = self.clock()
            tokens, target = batch["net_input"]["src_tokens"].to(self.device), batch["target"].to(self.device)
            net_input = {**batch["net_input"], "src_tokens": tokens, "store": store}
            scores, _ = self.model(**net_input)
            update(self.model, self.optimizer, scores, target)
            times.append(self.clock() - began)
        return times[self.filling :]

    def evaluation(self, streams: int, segments: int) -> List[float]:
        """Seconds of scored segments behind a full memory, reading of data and accounting included."""
        plan = EvaluationPlan(self.segment, streams=streams, warmup=0)
        text = text_of(streams * (self.filling + segments) * self.segment, self.symbols)
        batches = plan.batches(text, self.model.decoder.dictionary, lambda tally: tally.score.check())
        self.model.eval()
        moments = [self.clock()]

        def watched() -> Iterator[Dict[str, Any]]:
            for batch in batches:
                yield batch
                moments.append(self.clock())

        score_batches(self.model, watched(), torch.device(self.device))
        times = [after - before for before, after in zip(moments, moments[1:])]
        return times[self.filling :]
