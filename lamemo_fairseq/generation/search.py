"""Continuations of prompts by fairseq's search strategies: greedy, beam, diverse, sampling.

Fairseq's generator runs one loop for all hypotheses, from one symbol on, towards one length. Here the loop begins
where the shortest prompt ends; longer prompts are forced until theirs ends, and each text stops after its own number
of new tokens. Letters as in ``session.py``.
"""

import sys
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Set

import torch
from fairseq import search
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from ..core.errors import UsageError
from .ensemble import PromptedEnsemble
from .flags import check_memory
from .sampling import Sampling, generator_for
from .session import DecodingRules, Prompts, SearchState
from .text import suppressed_symbols


class PromptedGenerator(SequenceGenerator):
    """Fairseq's generator, from prefilled prompts.

    Takes the arguments of fairseq's class; ``max_len_a`` and ``max_len_b`` count new tokens, for each prompt: at most
    ``a * (length of the prompt) + b``. Scores are those that forcing the prompt token by token would give. One
    generator is one request: nothing in it is shared with another, but the models' weights.

    Args:
        models: the ensemble.
        tgt_dict: symbols.
        stop_at_eos: ``</s>`` ends a text.
        write_unk: whether ``<unk>`` may be written.
        random: where sampling takes its random numbers from; by default a generator of its own that begins at the
            global seed.
    """

    model: PromptedEnsemble

    def __init__(
        self,
        models: Sequence[Any],
        tgt_dict: Dictionary,
        *,
        stop_at_eos: bool = False,
        write_unk: bool = False,
        random: Optional[torch.Generator] = None,
        max_len_a: float = 0,
        max_len_b: int = 200,
        min_len: int = 1,
        unk_penalty: float = 0.0,
        no_repeat_ngram_size: int = 0,
        search_strategy: Optional[search.Search] = None,
        **options: Any,
    ) -> None:
        suppressed: FrozenSet[int] = suppressed_symbols(tgt_dict, write_unk)
        rules = DecodingRules(
            stop_at_eos,
            lambda prompt_length: int(max_len_a * prompt_length + max_len_b),
            min_len,
            unk_penalty,
            no_repeat_ngram_size,
            suppressed,
        )
        ensemble = PromptedEnsemble(models, rules)
        if isinstance(search_strategy, search.Sampling):  # draws from the global random state, which threads share
            random = random or generator_for(ensemble.suppressed.device, torch.initial_seed())
            topk, topp = search_strategy.sampling_topk, search_strategy.sampling_topp
            search_strategy = Sampling(tgt_dict, topk, topp, random)
        # The loop is as long as the "source" that write() shows it; all else about lengths is in the rules.
        lengths = {"max_len_a": 1, "max_len_b": 0, "min_len": 0, "max_len": sys.maxsize}
        super().__init__(ensemble, tgt_dict, eos=ensemble.end, search_strategy=search_strategy, **lengths, **options)
        self.search.stop_on_max_len = True  # instead of an assertion, where no hypothesis is left
        self.symbols_to_strip_from_output: Set[int] = set()

    @torch.no_grad()
    def write(self, prompts: Prompts) -> List[List[Dict[str, Tensor]]]:
        """Continues prompts.

        Returns:
            per prompt the hypotheses, best first, each with ``tokens``, ``positional_scores`` (both with the prompt's)
            and ``score``.

        Raises:
            UsageError: where the texts would not fit into memory, nothing may be written, or scores are no numbers.
        """
        lengths = prompts.lengths.tolist()
        new = [self.model.rules.max_new_tokens(length - prompts.context_tokens) for length in lengths]
        steps = max(length + count for length, count in zip(lengths, new)) - min(lengths)
        check_memory(steps, max(new), len(lengths), self.beam_size, prompts.tokens.device)
        state = self.model.start(prompts, self.temperature, self.beam_size)
        source = prompts.tokens.new_zeros(1, 1).expand(len(lengths), state.steps)
        found = self._generate({"net_input": {"state": state, "src_tokens": source, "src_lengths": prompts.lengths}})
        self.model.check_finite(state)
        return [self.hypotheses(number, one, prompts, state, lengths[number]) for number, one in enumerate(found)]

    def hypotheses(
        self, number: int, found: List[Dict[str, Tensor]], prompts: Prompts, state: SearchState, length: int
    ) -> List[Dict[str, Tensor]]:
        """What the search ``found`` for prompt ``number``, as texts, best first."""
        if len(found) < (self.beam_size if isinstance(self.search, Sampling) else 1):
            raise UsageError(nothing_left(self.model.rules.no_repeat_ngram))
        head, scores = prompts.tokens[number, :length], state.prompt_scores[number, :length]
        end = length + self.model.rules.max_new_tokens(length - prompts.context_tokens)
        whole = [self.complete(one, head, scores, state, end) for one in found]
        return sorted(whole, key=lambda one: float(one["score"]), reverse=True)

    def complete(
        self, hypothesis: Dict[str, Tensor], head: Tensor, scores: Tensor, state: SearchState, end: int
    ) -> Dict[str, Tensor]:
        """A hypothesis of the search as text: with its prompt, and without the symbol that ended it."""
        first = state.context_tokens
        tokens = torch.cat([head[: state.prefilled], self.model.as_text(hypothesis["tokens"])])[first:end]
        positional = hypothesis["positional_scores"][len(head) - state.prefilled :]
        positional = torch.cat([scores.to(positional), positional])[first:end]
        score = positional.sum()
        if self.normalize_scores:
            score = score / len(positional) ** self.len_penalty
        return {**hypothesis, "tokens": tokens, "positional_scores": positional, "score": score}


def nothing_left(ngram: int) -> str:
    """The error where the rules have forbidden every symbol."""
    if ngram > 0:
        return (
            f"--no-repeat-ngram-size {ngram} leaves no word that could be written before --max-len-b is reached: "
            "raise it, or lower --max-len-b"
        )
    return "no symbol of the dictionary may be written: add --write-unk, or use a dictionary with words"
