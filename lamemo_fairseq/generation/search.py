"""Long texts from fairseq's search strategies: prompts are read ahead in whole segments, texts may end apart.

Fairseq's generator runs one loop for all rows, from one symbol on, towards one length. Here the loop begins where
the shortest prompt ends; rows with longer prompts are forced until theirs ends, and each row stops after its own
number of new tokens. What travels through the loop is a :class:`Session`, in the place of an encoder's output, so
that fairseq itself reorders it. Letters as in ``ops.py``; R rows of the search (streams times beams), P tokens of
the longest prompt, V symbols.
"""

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from ..core.decoding import DecodingSegment, is_identity
from ..core.memory import MemoryState

NEVER = -math.inf


@dataclass(frozen=True)
class Prompts:
    """The beginnings of B texts.

    Attributes:
        tokens: [B, P] int64, anything behind a row's own length.
        lengths: [B] int64, at least 1.
        start: [B] int64, the token before the first: ``</s>``, or the last one that ``before`` has not read.
        before: per model, the memory of what came before; None where the texts begin with the prompts.
    """

    tokens: Tensor
    lengths: Tensor
    start: Tensor
    before: Optional[List[MemoryState]] = None


@dataclass(frozen=True)
class Rules:
    """What may be written, beside what the model says.

    Attributes:
        stop_at_eos: ``</s>`` ends a text; else it is a token like others.
        longest: new tokens of a row, given the length of its prompt.
        min_len: new tokens before ``</s>`` may end a text.
        unk_penalty: taken off the log-probability of the unknown symbol.
        ngram: no run of so many tokens comes twice (0: runs may repeat).
    """

    stop_at_eos: bool = False
    longest: Callable[[int], int] = lambda given: 200
    min_len: int = 1
    unk_penalty: float = 0.0
    ngram: int = 0


class Session:
    """Texts that are being written: what :class:`PromptedEnsemble` keeps from step to step.

    Attributes:
        opened: per model, the segment that is being written.
        tokens: [R, P] the prompts.
        lengths: [R] of the prompts.
        ends: [R] lengths of the texts when they stop.
        given: tokens of every prompt that were read ahead; ``longest``, those of the longest prompt.
        soonest: where the first text stops.
        row: [R] which prompt a row of the search writes.
        next: [R, V] log-probabilities of the first token that was not read ahead.
        scores: [B, P] log-probabilities of the prompts' own tokens; by prompt, not by row.
    """

    def __init__(self, prompts: Prompts, opened: List[DecodingSegment], ends: Tensor) -> None:
        self.opened, self.tokens, self.lengths, self.ends = opened, prompts.tokens, prompts.lengths, ends
        self.given, self.longest = int(prompts.lengths.min()), int(prompts.lengths.max())
        self.soonest = int(ends.min())
        self.row = torch.arange(prompts.tokens.size(0), device=prompts.tokens.device)
        self.scores = torch.zeros(prompts.tokens.shape, device=prompts.tokens.device)
        self.next = torch.empty(0)

    @property
    def steps(self) -> int:
        """Tokens that the search adds at most, forced ones included."""
        return int(self.ends.max()) - self.given

    def reorder(self, order: Tensor) -> None:
        """Rows in another order: ``order`` [R'] of row numbers."""
        if is_identity(order, self.row.numel()):
            return
        for opened in self.opened:
            opened.select(order)
        self.tokens, self.lengths, self.ends = self.tokens[order], self.lengths[order], self.ends[order]
        self.row = self.row[order]
        if self.next.numel() > 0:
            self.next = self.next[order]

    def note(self, log_probs: Tensor, forced: Tensor, place: int) -> None:
        """Notes what ``log_probs`` [R, V] give to token ``place`` of the prompts whose rows are ``forced`` [R]."""
        # Of a prompt's beams the first counts: fairseq holds the others at minus infinity, whatever they say.
        first = self.row.diff(prepend=self.row.new_tensor([-1])) != 0
        rows = (first & forced).nonzero().squeeze(1)
        self.scores[self.row[rows], place] = log_probs[rows, self.tokens[rows, place]].to(self.scores)


class PromptedEnsemble(EnsembleModel):
    """Models whose probabilities are averaged; answers each step of fairseq's search for a :class:`Session`.

    In the search's own tokens one symbol says that a text has ended, and is not part of it: ``<s>``, which no text
    holds. With ``stop_at_eos`` it is ``</s>``, as fairseq has it; a prompt's ``</s>`` is then written as ``<s>``.
    """

    def __init__(self, models: Sequence[Any], rules: Rules) -> None:
        super().__init__(models)
        self.rules = rules
        dictionary = models[0].decoder.dictionary
        self.eos, self.bos, self.unk = dictionary.eos(), dictionary.bos(), dictionary.unk()
        self.end = self.eos if rules.stop_at_eos else self.bos

    @torch.no_grad()
    def open(self, prompts: Prompts, temperature: float) -> Session:
        """Reads the prompts as far as all of them go."""
        ends = prompts.lengths + torch.tensor(
            [self.rules.longest(int(length)) for length in prompts.lengths], device=prompts.lengths.device
        )
        opened = [
            model.decoder.open(len(prompts.tokens), None if prompts.before is None else prompts.before[number])
            for number, model in enumerate(self.models)
        ]
        session = Session(prompts, opened, ends)
        read = torch.cat([prompts.start.unsqueeze(1), prompts.tokens[:, : session.given]], dim=1)  # [B, given + 1]
        chunks = zip(*[model.decoder.decode_tokens(read, one) for model, one in zip(self.models, opened)])
        done = 0
        for features in chunks:
            log_probs = self.average(features, temperature)  # [B, n, V]
            count = min(log_probs.size(1), session.given - done)  # the last one's next token is not known to all
            targets = prompts.tokens[:, done : done + count].unsqueeze(-1)
            session.scores[:, done : done + count] = log_probs[:, :count].gather(-1, targets).squeeze(-1)
            session.next = log_probs[:, -1]
            done += count
        return session

    def average(self, features: Sequence[Tensor], temperature: float) -> Tensor:
        """Log-probabilities [B, n, V] from the models' features, each [B, n, D]."""
        log_probs = []
        for model, rows in zip(self.models, features):
            scores = model.decoder.output_layer(rows)
            scores = scores if temperature == 1 else scores / temperature
            log_probs.append(model.get_normalized_probs((scores, None), log_probs=True))
        if len(log_probs) == 1:
            return log_probs[0]
        return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(len(log_probs))

    def forward_encoder(self, net_input: Dict[str, Any]) -> Session:
        """There is no encoder: the session takes its place."""
        return net_input["session"]

    def reorder_encoder_out(self, encoder_outs: Session, new_order: Tensor) -> Session:
        """Called by fairseq before each step."""
        encoder_outs.reorder(new_order)
        return encoder_outs

    def reorder_incremental_state(self, incremental_states: List[Any], new_order: Tensor) -> None:
        """Nothing is kept there."""

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: Session,
        incremental_states: List[Any],
        temperature: float = 1.0,
    ) -> Tuple[Tensor, None]:
        """Log-probabilities [R, V] of what follows ``tokens`` [R, steps], the first of which is a dummy."""
        session, step = encoder_outs, tokens.size(1) - 1
        if step == 0:
            log_probs, session.next = session.next, torch.empty(0)
        else:
            last = self.text(tokens[:, -1:])
            features = [next(model.decoder.decode_tokens(last, one)) for model, one in zip(self.models, session.opened)]
            log_probs = self.average(features, temperature)[:, -1]
        place = session.given + step
        forced = session.lengths > place
        if place < session.longest:
            session.note(log_probs, forced, place)
        self.restrict(log_probs, tokens, session, place)
        if place < session.longest:
            target = session.tokens[forced, place]
            log_probs[forced] = log_probs[forced].fill_(NEVER).scatter(1, self.written(target).unsqueeze(1), 0)
        return log_probs, None

    def text(self, tokens: Tensor) -> Tensor:
        """The search's tokens as text."""
        return tokens.masked_fill(tokens == self.bos, self.eos)

    def written(self, tokens: Tensor) -> Tensor:
        """A prompt's tokens as the search writes them."""
        return tokens.masked_fill(tokens == self.eos, self.bos) if self.rules.stop_at_eos else tokens

    def restrict(self, log_probs: Tensor, tokens: Tensor, session: Session, place: int) -> None:
        """Applies the rules to ``log_probs`` [R, V] of token number ``place``, in place."""
        rules = self.rules
        log_probs[:, self.bos] = NEVER
        if rules.stop_at_eos and rules.min_len > 1:
            log_probs[session.lengths + rules.min_len - 1 > place, self.eos] = NEVER
        log_probs[:, self.unk] -= rules.unk_penalty
        if rules.ngram > 0:
            # A prompt beyond what was read ahead stands among the search's tokens.
            written = torch.cat([session.tokens[:, : session.given], self.text(tokens[:, 1:])], dim=1)
            forbid_repeats(log_probs, written, rules.ngram)
        if place >= session.soonest:
            stopped = session.ends <= place
            log_probs[stopped] = NEVER
            log_probs[stopped, self.end] = 0


def forbid_repeats(log_probs: Tensor, written: Tensor, ngram: int) -> None:
    """Takes out of ``log_probs`` [R, V], in place, what would repeat a run of ``ngram`` tokens in [R, t]."""
    if written.size(1) < ngram:
        return
    runs = written.unfold(1, ngram, 1)  # [R, t - ngram + 1, ngram]
    last = written[:, written.size(1) - ngram + 1 :].unsqueeze(1)
    row, place = (runs[:, :, :-1] == last).all(2).nonzero(as_tuple=True)
    log_probs[row, runs[row, place, -1]] = NEVER


class PromptedGenerator(SequenceGenerator):
    """Fairseq's generator, from prompts that are read ahead.

    Takes the arguments of fairseq's class; ``max_len_a`` and ``max_len_b`` count new tokens, per row: at most
    ``a * (length of the prompt) + b``. Scores are those that forcing the prompt token by token would give.

    Args:
        models: the ensemble.
        tgt_dict: symbols.
        stop_at_eos: ``</s>`` ends a text.
    """

    model: PromptedEnsemble

    def __init__(
        self,
        models: Sequence[Any],
        tgt_dict: Dictionary,
        *,
        stop_at_eos: bool = False,
        max_len_a: float = 0,
        max_len_b: int = 200,
        min_len: int = 1,
        unk_penalty: float = 0.0,
        no_repeat_ngram_size: int = 0,
        **search: Any,
    ) -> None:
        rules = Rules(
            stop_at_eos, lambda given: int(max_len_a * given + max_len_b), min_len, unk_penalty, no_repeat_ngram_size
        )
        ensemble = PromptedEnsemble(models, rules)
        # The loop is as long as the "source" that write() shows it; all else about lengths is in the rules.
        super().__init__(ensemble, tgt_dict, max_len_a=1, max_len_b=0, min_len=0, eos=ensemble.end, **search)
        self.symbols_to_strip_from_output: Set[int] = set()

    @torch.no_grad()
    def write(self, prompts: Prompts) -> List[List[Dict[str, Tensor]]]:
        """Per prompt the hypotheses, best first, each with ``tokens``, ``positional_scores`` (both with the prompt's)
        and ``score``."""
        session = self.model.open(prompts, self.temperature)
        ends, lengths = session.ends.tolist(), prompts.lengths.tolist()
        source = prompts.tokens.new_zeros(1, 1).expand(len(lengths), session.steps)
        found = self._generate(
            {"net_input": {"session": session, "src_tokens": source, "src_lengths": prompts.lengths}}
        )
        texts = []
        for number, hypotheses in enumerate(found):
            head, scores = prompts.tokens[number, : lengths[number]], session.scores[number, : lengths[number]]
            whole = [self.complete(one, head, scores, session.given, ends[number]) for one in hypotheses]
            texts.append(sorted(whole, key=lambda one: float(one["score"]), reverse=True))
        return texts

    def complete(
        self, hypothesis: Dict[str, Tensor], head: Tensor, scores: Tensor, given: int, end: int
    ) -> Dict[str, Tensor]:
        """A hypothesis of the search as text: with its prompt, and without the symbol that ended it."""
        tokens = torch.cat([head[:given], self.model.text(hypothesis["tokens"])])[:end]
        positional = hypothesis["positional_scores"][len(head) - given :]
        positional = torch.cat([scores.to(positional), positional])[:end]
        score = positional.sum()
        if self.normalize_scores:
            score = score / len(positional) ** self.len_penalty
        return {**hypothesis, "tokens": tokens, "positional_scores": positional, "score": score}
