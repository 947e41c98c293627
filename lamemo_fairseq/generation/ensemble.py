"""Models whose probabilities are averaged, as fairseq's search asks them: prompts are prefilled, rules applied.

Letters as in ``session.py``.
"""

import math
from typing import Any, Dict, List, Sequence, Tuple

import torch
from fairseq.sequence_generator import EnsembleModel
from torch import Tensor

from ..core.errors import UsageError
from .session import NEVER, DecodingRules, Prompts, SearchState


class PromptedEnsemble(EnsembleModel):
    """Answers each step of fairseq's search from a :class:`SearchState`, which travels in an encoder output's place.

    In the search's own tokens one symbol says that a text has ended, and is not part of it: ``<s>``, which no text
    holds. With ``stop_at_eos`` it is ``</s>``, as fairseq has it; a prompt's ``</s>`` is then written as ``<s>``.

    Args:
        models: of one dictionary and segment length.
        rules: what may be written.
    """

    def __init__(self, models: Sequence[Any], rules: DecodingRules) -> None:
        super().__init__(models)
        self.rules = rules
        dictionary = models[0].decoder.dictionary
        self.eos, self.bos, self.unk = dictionary.eos(), dictionary.bos(), dictionary.unk()
        self.end = self.eos if rules.stop_at_eos else self.bos
        suppressed = sorted(rules.suppressed | {self.bos, dictionary.pad()})
        self.suppressed = torch.tensor(suppressed, device=next(models[0].parameters()).device)

    @torch.no_grad()
    def start(self, prompts: Prompts, temperature: float, beams: int = 1) -> SearchState:
        """Prefills the prompts as far as all of them go.

        Raises:
            UsageError: where a model's scores are no numbers.
        """
        lengths = prompts.lengths.tolist()
        new = [self.rules.max_new_tokens(length - prompts.context_tokens) for length in lengths]
        ends = prompts.lengths + torch.tensor(new, device=prompts.lengths.device)
        decoding = [
            model.decoder.new_segment(len(lengths), None if prompts.before is None else prompts.before[number])
            for number, model in enumerate(self.models)
        ]
        state = SearchState(prompts, decoding, ends, beams)
        tokens = torch.cat([prompts.start.unsqueeze(1), prompts.tokens[:, : state.prefilled]], dim=1)
        chunks = zip(*[model.decoder.decode_tokens(tokens, one) for model, one in zip(self.models, decoding)])
        done = 0
        for features in chunks:
            log_probs = self.average(features, temperature, state)  # [B, n, V]
            count = min(log_probs.size(1), state.prefilled - done)  # the last one's next token is not known to all
            targets = prompts.tokens[:, done : done + count].unsqueeze(-1)
            state.prompt_scores[:, done : done + count] = log_probs[:, :count].gather(-1, targets).squeeze(-1)
            state.next_log_probs = log_probs[:, -1]
            done += count
        self.check_finite(state)
        return state

    def average(self, features: Sequence[Tensor], temperature: float, state: SearchState) -> Tensor:
        """Log-probabilities [B, n, V] from the models' features, each [B, n, D]."""
        log_probs = []
        for number, (model, hidden) in enumerate(zip(self.models, features)):
            logits = model.decoder.output_layer(hidden)
            logits = logits if temperature == 1 else logits / temperature
            log_probs.append(model.decoder.get_normalized_probs((logits, None), log_probs=True))
            state.note_not_finite(number, log_probs[-1])
        if len(log_probs) == 1:
            return log_probs[0]
        return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(len(log_probs))

    def check_finite(self, state: SearchState) -> None:
        """Raises ``UsageError`` where a model has given a score that is no number. Waits for the device."""
        for model, failed in zip(self.models, state.not_finite.tolist()):
            if failed:
                name = getattr(model, "checkpoint_path", None) or "the model"
                raise UsageError(
                    f"{name} gives scores that are not finite: its weights hold NaN or infinity, or overflow in half "
                    "precision; use another checkpoint, or leave out --fp16"
                )

    def forward_encoder(self, net_input: Dict[str, Any]) -> SearchState:
        """There is no encoder: the search's state takes its place."""
        return net_input["state"]

    def reorder_encoder_out(self, encoder_outs: SearchState, new_order: Tensor) -> SearchState:
        """Called by fairseq before each step."""
        encoder_outs.reorder(new_order)
        return encoder_outs

    def reorder_incremental_state(self, incremental_states: List[Any], new_order: Tensor) -> None:
        """Nothing is kept there."""

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: SearchState,
        incremental_states: List[Any],
        temperature: float = 1.0,
    ) -> Tuple[Tensor, None]:
        """Log-probabilities [R, V] of what follows ``tokens`` [R, steps], the first of which is a dummy."""
        state, step = encoder_outs, tokens.size(1) - 1
        if step == 0:
            log_probs, state.next_log_probs = state.next_log_probs, torch.empty(0)
        else:
            last = self.as_text(tokens[:, -1:])
            features = [next(model.decoder.decode_tokens(last, one)) for model, one in zip(self.models, state.decoding)]
            log_probs = self.average(features, temperature, state)[:, -1]
        place = state.prefilled + step
        if place >= state.longest:
            return self.apply_rules(log_probs, tokens, state, place), None
        forced = state.lengths > place
        state.record_prompt_scores(log_probs, forced, place)
        log_probs = self.apply_rules(log_probs, tokens, state, place)
        target = self.as_written(state.tokens[:, place : place + 1])
        only = torch.full_like(log_probs, NEVER).scatter_(1, target, 0)
        return torch.where(forced.unsqueeze(1), only, log_probs), None

    def as_text(self, tokens: Tensor) -> Tensor:
        """The search's tokens as those of the text."""
        return tokens.masked_fill(tokens == self.bos, self.eos)

    def as_written(self, tokens: Tensor) -> Tensor:
        """A prompt's tokens as the search writes them."""
        return tokens.masked_fill(tokens == self.eos, self.bos) if self.rules.stop_at_eos else tokens

    def apply_rules(self, log_probs: Tensor, tokens: Tensor, state: SearchState, place: int) -> Tensor:
        """``log_probs`` [R, V] of token number ``place``, changed in place by the rules."""
        rules = self.rules
        log_probs.index_fill_(1, self.suppressed, NEVER)
        if rules.stop_at_eos and rules.min_len > 1:
            too_early = state.lengths + rules.min_len - 1 > place
            log_probs[:, self.eos].masked_fill_(too_early, NEVER)
        if rules.unk_penalty != 0:
            log_probs[:, self.unk] -= rules.unk_penalty
        if rules.no_repeat_ngram > 0:
            # A prompt beyond what was prefilled stands among the search's tokens.
            prefilled = state.tokens[:, state.context_tokens : state.prefilled]
            block_repeats(log_probs, torch.cat([prefilled, self.as_text(tokens[:, 1:])], dim=1), rules.no_repeat_ngram)
        if place >= state.first_end:
            stopped = state.ends <= place
            log_probs.masked_fill_(stopped.unsqueeze(1), NEVER)
            log_probs[:, self.end].masked_fill_(stopped, 0)
        return log_probs


def block_repeats(log_probs: Tensor, written: Tensor, ngram: int) -> None:
    """Takes out of ``log_probs`` [R, V], in place, what would repeat a run of ``ngram`` tokens in [R, t]."""
    if written.size(1) < ngram:
        return
    runs = written.unfold(1, ngram, 1)  # [R, t - ngram + 1, ngram]
    last = written[:, written.size(1) - ngram + 1 :].unsqueeze(1)
    repeats = (runs[:, :, :-1] == last).all(2)  # [R, t - ngram + 1]
    blocked = torch.full_like(repeats, math.inf, dtype=log_probs.dtype).masked_fill_(repeats, NEVER)
    log_probs.scatter_reduce_(1, runs[:, :, -1], blocked, "amin")
