"""Speed of evaluation: against a training step on the same shapes, and by batch size.

The ``eval`` part of ``benchmark.py``; runs alone too: ``python scripts/benchmark_eval.py``.
"""

import argparse
import time
from typing import Any, Callable, Dict, List, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import nn

from lamemo_fairseq.config import LaMemoConfig
from lamemo_fairseq.data import Text
from lamemo_fairseq.decoder import LaMemoDecoder
from lamemo_fairseq.model import LaMemoLanguageModel
from lamemo_fairseq.protocol import Protocol
from lamemo_fairseq.scoring import score_batches
from lamemo_fairseq.streams import Stream

VOCABULARY, SEGMENT, MEMORY = 1000, 128, 512


class Lines(NamedTuple):
    """A text of random tokens, as fairseq's datasets look."""

    tokens: torch.Tensor
    sizes: List[int]

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tokens


def symbols() -> Dictionary:
    """A dictionary of VOCABULARY symbols."""
    dictionary = Dictionary()
    for number in range(VOCABULARY - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    return dictionary


def model_for(memory_type: str) -> LaMemoLanguageModel:
    """6 layers, width 256, 4 heads, feed-forward 1024."""
    cfg = LaMemoConfig(
        memory_type=memory_type,
        decoder_layers=6,
        decoder_embed_dim=256,
        decoder_ffn_embed_dim=1024,
        decoder_attention_heads=4,
        mem_len=MEMORY,
    )
    return LaMemoLanguageModel(LaMemoDecoder(cfg, symbols(), SEGMENT))


def text_of(rows: int, segments: int) -> Text:
    """Random tokens for ``rows`` streams of ``segments`` segments."""
    total = rows * segments * SEGMENT
    tokens = torch.randint(4, VOCABULARY, (total,), generator=torch.Generator().manual_seed(1))
    return Text(Lines(tokens, [total]), "random")


def seconds(run: Callable[[], Any]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def training(model: LaMemoLanguageModel, rows: int, segments: int) -> List[float]:
    """Seconds of each training step: forward, loss, backward, clipping, Adam."""
    protocol = Protocol(SEGMENT, rows=rows, warmup=0)
    segments_of = protocol.cut(text_of(rows, segments), model.decoder.dictionary)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    stream = Stream("train")
    model.train()

    def step(batch: Dict[str, Any]) -> None:
        scores, _ = model(**batch["net_input"], stream=stream)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch["target"].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()

    times = []
    for indices in segments_of.batches(rows, 1):
        batch = segments_of.collater([segments_of[index] for index in indices])
        times.append(seconds(lambda batch=batch: step(batch)))
    return times


def evaluation(model: LaMemoLanguageModel, rows: int, segments: int) -> List[float]:
    """Seconds of each segment's evaluation, the accounting and the reading of data included."""
    protocol = Protocol(SEGMENT, rows=rows, memory=MEMORY, warmup=0)
    batches = protocol.batches(text_of(rows, segments), model.decoder.dictionary, lambda tally: tally.score.check())
    model.eval()
    moments = [time.perf_counter()]

    def watched() -> Any:
        for batch in batches:
            yield batch
            moments.append(time.perf_counter())

    score_batches(model, watched(), torch.device("cpu"))
    return [after - before for before, after in zip(moments, moments[1:])]


def settled(times: List[float]) -> float:
    """Median of the times once the memory is full."""
    full = sorted(times[MEMORY // SEGMENT + 1 :])
    return full[len(full) // 2]


def benchmark(repeats: int = 3) -> List[Dict[str, Any]]:
    """Rows of results: tokens per second of training and evaluation, and their ratio."""
    rows_of_results = []
    for memory_type in ("lookahead", "recurrence"):
        model = model_for(memory_type)
        train, score = [], []
        for _ in range(repeats):  # in turn, so that both see the same machine
            train.append(settled(training(model, 4, MEMORY // SEGMENT + 8)))
            score.append(settled(evaluation(model, 4, MEMORY // SEGMENT + 8)))
        step, pass_ = min(train), min(score)
        speeds = {
            f"eval tokens/s at batch {rows}": round(
                rows * SEGMENT / settled(evaluation(model, rows, MEMORY // SEGMENT + 6))
            )
            for rows in (1, 4, 16)
        }
        rows_of_results.append(
            {
                "memory": memory_type,
                "train tokens/s": round(4 * SEGMENT / step),
                "eval tokens/s": round(4 * SEGMENT / pass_),
                "eval / train": round(step / pass_, 2),
                **speeds,
            }
        )
    return rows_of_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"4 streams, segment {SEGMENT}, memory {MEMORY}, float32, {args.threads} threads")
    for row in benchmark(args.repeats):
        print(", ".join(f"{name}: {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
