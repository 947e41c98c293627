"""Scores plain text that is read line by line, without a data-bin: what ``fairseq-eval-lm`` gives for the same text.

The text is one stream: segments of as many tokens as in training, each behind the memory of those before. No more of
it is held than a segment, so that its length does not matter.
"""

import itertools
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..core.memory import MemoryState
from ..core.network import MemoryTransformer
from ..data.counts import TextCounts
from ..data.spelling import Spelling
from .scoring import LossAccumulator, Score


def token_stream(lines: Iterable[str], encode: Callable[[str], str], dictionary: Dictionary) -> Iterator[int]:
    """The tokens of a text, ``</s>`` behind each line, as ``lamemo prepare`` and ``fairseq-preprocess`` write them.

    Args:
        lines: without their ends.
        encode: a line -> its symbols, with spaces between them.
        dictionary: of the symbols; what it lacks is ``<unk>``.
    """
    for line in lines:
        yield from (dictionary.index(symbol) for symbol in encode(line).split())
        yield dictionary.eos()


def segments_of(tokens: Iterator[int], length: int) -> Iterator[List[int]]:
    """Runs of ``length`` tokens, the last of which may be shorter."""
    while segment := list(itertools.islice(tokens, length)):
        yield segment


def score_text(
    models: Sequence[Any],
    lines: Iterable[str],
    encode: Callable[[str], str],
    dictionary: Dictionary,
    segment_length: int,
    name: str,
    watch: Callable[[Iterator[List[int]]], Iterable[List[int]]] = iter,
) -> Score:
    """Scores a text with one model, or with several whose probabilities are averaged.

    Args:
        models: with a dictionary in common.
        lines: of the text, without their ends.
        encode: a line -> its symbols.
        dictionary: of the symbols.
        segment_length: N, new tokens in a segment.
        name: of the text, for errors.
        watch: wraps the segments, as a progress bar does.

    Raises:
        UsageError: a loss is not finite.
    """
    counts, device = TextCounts(), next(models[0].parameters()).device
    memory = max(model.memory_length for model in models)
    tally = LossAccumulator(Spelling.of(dictionary), dictionary.pad(), memory, 0, segment_length)
    states: List[Optional[MemoryState]] = [None] * len(models)
    before = dictionary.eos()
    tokens = token_stream(counts.counting(lines), encode, dictionary)
    with torch.inference_mode():
        for segment in watch(segments_of(tokens, segment_length)):
            target = torch.tensor([segment])
            source = torch.tensor([[before, *segment[:-1]]])
            before = segment[-1]
            for number, model in enumerate(models):
                log_probs, states[number] = read(model, source.to(device), target.to(device), states[number])
                tally.take(log_probs if len(models) == 1 else log_probs.exp(), is_log=len(models) == 1)
            tally.add_batch(as_batch(source, target, tally.score.scored))
    score = tally.score
    score.targets = score.scored
    paths = [getattr(model, "checkpoint_path", None) or "the model" for model in models]
    score.check(f"{':'.join(paths)} on {name}")
    return score.of_original(counts, name)


def read(model: Any, source: Tensor, target: Tensor, state: Optional[MemoryState]) -> "tuple[Tensor, MemoryState]":
    """Log-probabilities [1, n] of ``target`` behind ``source`` [1, n], and the memory after it."""
    decoder = model.decoder
    features, after, _ = MemoryTransformer.forward(decoder, source, state)  # not as fairseq calls it
    return decoder.target_log_probs(features.flatten(0, 1), target.flatten()).view(target.shape), after


def as_batch(source: Tensor, target: Tensor, seen: int) -> Dict[str, Any]:
    """A segment [1, n] as the accumulator takes it, behind ``seen`` tokens."""
    return {
        "net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])},
        "target": target,
        "remembered": torch.full(target.shape, seen),
        "context_tokens": 0,
    }
