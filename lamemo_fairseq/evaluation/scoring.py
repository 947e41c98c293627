"""Accumulates the losses of a split, each target's once. The only place where evaluation counts.

A :class:`LossAccumulator` travels with the batches, notes the probabilities that a model gives their targets, and ends
as a :class:`Score`. ``fairseq-eval-lm`` and ``lamemo evaluate`` both go this way.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Optional

import torch
from fairseq import utils
from torch import Tensor

from ..core.errors import UsageError
from ..core.probe import Probe
from ..data.counts import CORPUS_FILE, TextCounts
from ..data.spelling import Spelling


class NonFiniteLoss(UsageError):
    """A model's losses are NaN or infinite."""

    @staticmethod
    def of(model: str, targets: int, nats: float) -> "NonFiniteLoss":
        """The error for the checkpoint named ``model``, whose losses of ``targets`` add up to ``nats``."""
        return NonFiniteLoss(
            f"{model}: the loss of {targets} targets is {nats}: no perplexity is given; weights that are not finite do "
            "this, and so does --fp16 where numbers grow too large"
        )


@dataclass
class Score:
    """What was counted and lost. Scores of disjoint parts of a split add up with ``+``.

    Attributes:
        targets: targets that were to be scored.
        scored: targets that were.
        partial_memory: of these, with less in memory than it can hold (of their own document).
        context: tokens that were read without being scored.
        nats: sum of the losses.
        unknown: of the scored targets, ``<unk>``.
        words: words that end in the scored targets, an end of line being one.
        characters: characters of the scored targets, an end of line being one.
        lines: of the words, ends of lines; only where the original text was counted.
        bytes: bytes of the text in UTF-8; only where the original text was counted.
        original: whether words and characters are those of the original text, before it was cut into tokens, as
            ``lamemo prepare`` counted them; else the dictionary's symbols spell them.
    """

    targets: int = 0
    scored: int = 0
    partial_memory: int = 0
    context: int = 0
    nats: float = 0.0
    unknown: int = 0
    words: int = 0
    characters: int = 0
    lines: int = 0
    bytes: int = 0
    original: bool = False

    def __add__(self, other: "Score") -> "Score":
        return Score(*(type(a)(a + b) for a, b in zip(self.values(), other.values())))

    def values(self) -> List[Any]:
        """The attributes, in order."""
        return [getattr(self, name) for name in self.__dataclass_fields__]

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.scored

    @property
    def perplexity(self) -> float:
        """Per token."""
        return exponential(self.loss)

    @property
    def bits_per_character(self) -> float:
        """Bits of all tokens, over the characters that they stand for."""
        return self.nats / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        """Bits of all tokens, over the bytes of the original text."""
        return self.nats / math.log(2) / self.bytes

    @property
    def word_perplexity(self) -> float:
        """Per word, an end of line being one, as WikiText's is given."""
        return exponential(self.nats / self.words)

    @property
    def plain_word_perplexity(self) -> float:
        """Per word of the original text, ends of lines being none, as PG-19's is given."""
        return exponential(self.nats / (self.words - self.lines))

    def of_original(self, counts: Optional[TextCounts], split: str) -> "Score":
        """The score of a whole split with its original text's words, characters and bytes, where these are known.

        Raises:
            UsageError: the counts are of other data.
        """
        if counts is None or self.scored != self.targets:
            return self
        if counts.tokens is not None and counts.tokens != self.targets:
            raise UsageError(
                f"{CORPUS_FILE} counts {counts.tokens} tokens of {split}, where the data has {self.targets}: it was "
                "made of another text; prepare the data again, or remove that file"
            )
        sizes = {"words": counts.words + counts.lines, "characters": counts.characters, "lines": counts.lines}
        return replace(self, **sizes, bytes=counts.bytes, original=True)

    def unknown_warning(self, split: str) -> Optional[str]:
        """What is to be said where more than a hundredth of the targets are unknown; None: nothing."""
        if 100 * self.unknown <= self.scored:
            return None
        guess = (
            ""
            if self.original
            else (
                f"; how many characters they stood for is not known either ({CORPUS_FILE} of lamemo prepare counts "
                "them), and each counts as <unk>"
            )
        )
        return (
            f"{split}: {100 * self.unknown / self.scored:.2f} % of the targets are <unk>, which is easier to guess "
            f"than the words that it hides: compare these scores only with those of the same dictionary{guess}"
        )

    def check(self, model: str = "the model") -> None:
        """Raises ``UsageError`` unless every target was scored, once, and to a finite loss."""
        if not math.isfinite(self.nats):
            raise NonFiniteLoss.of(model, self.scored, self.nats)
        if self.scored != self.targets or not self.scored:
            raise UsageError(
                f"{self.scored} targets were scored where {self.targets} were to be: no perplexity is given; "
                "the batches of the split were changed or cut short on their way to the model"
            )

    def line(self, memory: int, pieces: bool) -> str:
        """The report, in one line."""
        parts = [
            f"{self.scored} targets scored",
            f"{self.partial_memory} of them with less than {memory} tokens of memory",
            f"{self.context} tokens run only as context",
            f"loss {self.loss:.6f} nats per token",
            f"{self.bits_per_character:.6f} bits per character ({self.characters} characters)",
            f"perplexity {self.perplexity:.4f} per token",
        ]
        if pieces or self.original:
            parts.append(f"perplexity {self.word_perplexity:.4f} per word ({self.words} words)")
        if self.lines and self.words > self.lines:
            plain = self.words - self.lines
            parts.append(f"{self.plain_word_perplexity:.4f} where ends of lines are no words ({plain} words)")
        if self.bytes:
            parts.append(f"{self.bits_per_byte:.6f} bits per byte ({self.bytes} bytes)")
        parts.append(f"{self.unknown} targets unknown ({100 * self.unknown / self.scored:.2f} %)")
        source = "as the original text has them" if self.original else "as the dictionary spells them"
        return ", ".join(parts) + f"; characters and words {source}"


def exponential(nats: float) -> float:
    """e^nats, infinite where that is beyond any float."""
    return math.exp(nats) if nats < 700 else math.inf


class LossAccumulator:
    """The running account of one evaluation.

    Args:
        spelling: of the dictionary.
        pad: the symbol that is no target.
        memory: tokens that a full memory holds.
        targets: targets that are to be scored.
        segment: new tokens in a segment, whose positions are told apart.
    """

    def __init__(self, spelling: Spelling, pad: int, memory: int, targets: int, segment: int) -> None:
        self.spelling, self.pad, self.memory = spelling, pad, memory
        self.score = Score(targets=targets)
        self.noted: List[Tensor] = []
        self.is_log = True
        # Sum of losses and number of targets by position among a segment's new tokens, [2, segment].
        self.positions = torch.zeros(2, segment, dtype=torch.float64)

    def note(self, probabilities: Tensor, targets: Tensor, is_log: bool) -> None:
        """What a model gives ``targets`` [B, n]: (log-)probabilities [B, n, V], of a batch or of a piece of it."""
        self.take(probabilities.gather(-1, targets.unsqueeze(-1)), is_log)

    def take(self, answers: Tensor, is_log: bool = True) -> None:
        """A model's (log-)probabilities of the targets of a batch, or of its next piece, in any shape."""
        self.noted.append(answers.flatten())
        self.is_log = is_log

    def add_batch(self, batch: Dict[str, Any]) -> Tensor:
        """Takes a batch into account that all models have read; its losses [B, N], 0 where nothing is scored."""
        target = batch["target"]
        noted = torch.cat(self.noted).double().cpu()  # the models' answers, one behind the other
        self.noted = []
        assert noted.numel() % target.numel() == 0, "a model answered for a part of the batch"
        answers = noted.view(-1, *target.shape)  # [models, B, N]
        losses = -(answers[0] if self.is_log else answers.mean(0).log())
        scored = target != self.pad
        losses = losses.masked_fill(~scored, 0.0)
        self.add(batch, losses, scored)
        return losses

    def add(self, batch: Dict[str, Any], losses: Tensor, scored: Tensor) -> None:
        """Adds up ``losses`` [B, N] where ``scored`` [B, N]."""
        score, net_input = self.score, batch["net_input"]
        sources, targets = net_input["src_tokens"][scored], batch["target"][scored]
        score.scored += len(targets)
        score.partial_memory += int((batch["remembered"][scored] < self.memory).sum())
        score.context += int(net_input["src_lengths"].sum()) - len(targets)
        score.nats += float(losses.sum())
        score.unknown += int((targets == self.spelling.unk).sum())
        score.words += self.spelling.words(targets)
        score.characters += self.spelling.characters(targets, sources)
        # The new tokens stand at the end of a segment, behind those that come again as context.
        context = batch["context_tokens"]
        new = scored.size(1) - context
        self.positions[0, :new] += losses[:, context:].sum(0)
        self.positions[1, :new] += scored[:, context:].sum(0)


class ScoredBatches:
    """Batches that are accounted for as they are read; ``finish`` is called behind the last.

    Args:
        batches: what the data loader gives.
        tally: takes them in, and is handed to the models in each.
        finish: called once, when all were read.
    """

    def __init__(self, batches: Any, tally: LossAccumulator, finish: Any) -> None:
        self.batches, self.tally, self.finish, self.n = batches, tally, finish, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        for batch in self.batches:
            self.n += 1
            if not batch:
                continue
            yield {**batch, "tally": self.tally}
            self.tally.add_batch(batch)
        self.finish()


def score_batches(
    model: Any, batches: Iterable[Dict[str, Any]], device: torch.device, probe: Optional[Probe] = None
) -> None:
    """Has ``model`` read what :class:`ScoredBatches` gives, looked at by ``probe``; the tally then holds the score."""
    with torch.inference_mode():
        for batch in batches:
            batch = utils.apply_to_sample(lambda tensor: tensor.to(device), batch)
            if probe is not None:
                probe.begin(batch["net_input"]["src_tokens"] != batch["tally"].pad)
            answers, _ = model(**batch["net_input"], targets=batch["target"], probe=probe)
            batch["tally"].take(answers)
