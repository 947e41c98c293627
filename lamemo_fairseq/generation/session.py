"""The state of a search between tokens: prompts, the rules of decoding, and every hypothesis.

Letters as in ``core/attention.py``; B prompts, R hypotheses (prompts times beams, those of one prompt side by side),
P tokens of the longest prompt, V symbols.
"""

import math
from dataclasses import dataclass
from typing import Callable, FrozenSet, List, Optional

import torch
from torch import Tensor

from ..core.decoding import DecodingSegment
from ..core.memory import MemoryState

#: the log-probability of what must not be written
NEVER = -math.inf


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts.

    Attributes:
        tokens: [B, P] int64, padded on the right with any symbol.
        lengths: [B] int64, at least 1.
        start: [B] int64, the token before the first: ``</s>``, or the last one that ``before`` has not read.
        before: per model, the memory of what came before; None where the texts begin with the prompts.
        context_tokens: tokens at each prompt's beginning that are read, but are no part of the prompt (they belong to
            a segment whose memory is not made yet).
    """

    tokens: Tensor
    lengths: Tensor
    start: Tensor
    before: Optional[List[MemoryState]] = None
    context_tokens: int = 0


@dataclass(frozen=True)
class DecodingRules:
    """Constraints on what is written, beside what the model says.

    Attributes:
        stop_at_eos: ``</s>`` ends a text; else it is a token like others.
        max_new_tokens: of a text, given the length of its prompt.
        min_len: new tokens before ``</s>`` may end a text.
        unk_penalty: taken off the log-probability of the unknown symbol.
        no_repeat_ngram: no run of so many tokens comes twice (0: runs may repeat).
        suppressed: ids of symbols that are never written.
    """

    stop_at_eos: bool = False
    max_new_tokens: Callable[[int], int] = lambda prompt_length: 200
    min_len: int = 1
    unk_penalty: float = 0.0
    no_repeat_ngram: int = 0
    suppressed: FrozenSet[int] = frozenset()


class SearchState:
    """The hypotheses of a search in progress, as the models of an ensemble see them.

    Attributes:
        decoding: per model, the segment that is being written.
        tokens: [R, P] the prompts.
        lengths: [R] of the prompts.
        ends: [R] lengths of the texts when they stop.
        prefilled: tokens of every prompt that were read at once; ``longest``, those of the longest prompt.
        first_end: where the first text stops.
        prompt_index: [R] whose prompt a hypothesis continues.
        next_log_probs: [R, V] of the first token that was not prefilled.
        prompt_scores: [B, P] log-probabilities of the prompts' own tokens.
        not_finite: [models] bool, whether a model has given a score that is no number.
    """

    def __init__(self, prompts: Prompts, decoding: List[DecodingSegment], ends: Tensor, beams: int) -> None:
        self.decoding, self.tokens, self.lengths, self.ends = decoding, prompts.tokens, prompts.lengths, ends
        self.beams, self.context_tokens = beams, prompts.context_tokens
        self.prefilled, self.longest = int(prompts.lengths.min()), int(prompts.lengths.max())
        self.first_end, self.last_end = int(ends.min()), int(ends.max())
        self.prompt_index = torch.arange(prompts.tokens.size(0), device=prompts.tokens.device)
        self.prompt_scores = torch.zeros(prompts.tokens.shape, device=prompts.tokens.device)
        self.next_log_probs = torch.empty(0)
        self.not_finite = torch.zeros(len(decoding), dtype=torch.bool, device=prompts.tokens.device)

    @property
    def steps(self) -> int:
        """Tokens that the search adds at most, forced ones included."""
        return self.last_end - self.prefilled

    def reorder(self, order: Tensor) -> None:
        """Hypotheses in another order: ``order`` [R'] of their numbers."""
        if self.keeps(order):
            return
        for segment in self.decoding:
            segment.select(order)
        self.tokens, self.lengths, self.ends = self.tokens[order], self.lengths[order], self.ends[order]
        self.prompt_index = self.prompt_index[order]
        if self.next_log_probs.numel() > 0:
            self.next_log_probs = self.next_log_probs[order]

    def keeps(self, order: Tensor) -> bool:
        """Whether ``order`` [R'] is known, without waiting for a device, to leave every hypothesis where it is."""
        if order.numel() != self.prompt_index.numel():
            return False
        if self.beams == 1:
            return True  # a prompt's only hypothesis continues itself; the order changes only where prompts are done
        # A CPU compares for nothing and copies caches slowly; elsewhere the comparison would cost a wait per token.
        return order.device.type == "cpu" and torch.equal(order, torch.arange(order.numel()))

    def record_prompt_scores(self, log_probs: Tensor, forced: Tensor, place: int) -> None:
        """Records what ``log_probs`` [R, V] give to token ``place`` of the prompts that are ``forced`` [R]."""
        # A prompt's first beam: while tokens are forced, fairseq holds the others at minus infinity.
        first = slice(None, None, self.beams)
        prompt, target = self.prompt_index[first], self.tokens[first, place]
        found = log_probs[first].gather(1, target.unsqueeze(1)).squeeze(1).to(self.prompt_scores)
        scores = self.prompt_scores[:, place]
        scores[prompt] = torch.where(forced[first], found, scores[prompt])

    def note_not_finite(self, model: int, log_probs: Tensor) -> None:
        """Notes whether ``log_probs`` [.., V] of a model hold one that is no number, without waiting for it."""
        self.not_finite[model] |= log_probs.amax(-1).isnan().any()
