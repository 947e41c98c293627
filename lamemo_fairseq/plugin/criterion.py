"""The criterion: cross entropy of the text, or of the answers in it, and the auxiliary losses of a memory."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.logging import metrics
from torch import Tensor

from ..core.errors import UsageError, at_least

# In logging outputs, so that they are told from what fairseq logs.
PREFIX = "auxiliary_"


@dataclass
class MemoryCrossEntropyConfig(CrossEntropyCriterionConfig):
    """Flags of ``--criterion memory_cross_entropy``."""

    score_after: Optional[str] = field(
        default=None,
        metadata={
            "help": "score only tokens behind this symbol, so many as --score-offset says, in the same segment, and "
            "log their accuracy (default: every token is scored)"
        },
    )
    score_offset: int = field(default=1, metadata={"help": "with --score-after: 1 scores the next token"})
    score_accuracy_only: bool = field(
        default=False, metadata={"help": "with --score-after: every token is trained, the accuracy is of those alone"}
    )


@register_criterion("memory_cross_entropy", dataclass=MemoryCrossEntropyConfig)
class MemoryCrossEntropyCriterion(CrossEntropyCriterion):
    """Cross entropy of the text, exact for adaptive softmax too, plus the memory's losses.

    What is minimised is text + auxiliary. What is logged as loss, ppl and bpc is the text's alone, comparable
    between memory kinds; each auxiliary loss is logged under its own name, in nats per token, as weighted.

    With ``score_after`` a token means a scored one in all of this; with ``score_accuracy_only`` in accuracy alone.

    Args:
        task: whose dictionary the targets are of.
        sentence_avg: divide by streams, not by tokens.
        score_after, score_offset, score_accuracy_only: the flags.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        score_after: Optional[str] = None,
        score_offset: int = 1,
        score_accuracy_only: bool = False,
    ) -> None:
        super().__init__(task, sentence_avg)
        at_least("score_offset", score_offset, 1)
        if score_after is None and score_offset != 1:
            raise UsageError(f"--score-offset {score_offset} does nothing without --score-after: leave it out")
        if score_after is None and score_accuracy_only:
            raise UsageError("--score-accuracy-only does nothing without --score-after: leave it out")
        self.score_offset, self.accuracy_only, self.mark = score_offset, score_accuracy_only, None
        if score_after is not None:
            if score_after not in task.target_dictionary:
                raise UsageError(f"--score-after {score_after} is not in the dictionary: name one of its symbols")
            self.mark = task.target_dictionary.index(score_after)

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """(loss, sample size, logging output); without ``reduce`` the text's loss of each token, [B * N]."""
        target = sample["target"]
        tokens, logging_output = sample["ntokens"], {}
        if self.mark is None:
            log_probs, extra = model(**sample["net_input"], targets=target)
            each = -log_probs.masked_fill(target == self.padding_idx, 0)
        else:
            output = model(**sample["net_input"])
            extra = output[1]
            everything = model.get_normalized_probs(output, log_probs=True)  # [B, N, V]
            answers = self.answers(target)
            logging_output["n_correct"] = ((everything.argmax(2) == target) & answers).sum().data
            logging_output["n_answers"] = answers.sum().data
            scored = target != self.padding_idx if self.accuracy_only else answers
            each = -everything.gather(2, target.unsqueeze(2)).squeeze(2).masked_fill(~scored, 0)
            tokens = int(scored.sum())
        sample_size = target.size(0) if self.sentence_avg else tokens
        logging_output.update(
            {"loss": each.sum().data, "ntokens": tokens, "nsentences": target.size(0), "sample_size": sample_size}
        )
        if not reduce:
            return each.flatten(), sample_size, logging_output
        loss = each.sum()
        # A mean per token times the tokens: sums over micro-batches and ranks then weigh it as the text's loss.
        for name, auxiliary in extra.get("losses", {}).items():
            loss = loss + auxiliary * tokens
            logging_output[PREFIX + name] = auxiliary.data * tokens
        return loss, sample_size, logging_output

    def answers(self, target: Tensor) -> Tensor:
        """[B, N]: whether a target stands ``score_offset`` behind the symbol that is asked for."""
        scored = torch.zeros_like(target, dtype=torch.bool)
        scored[:, self.score_offset :] = target[:, : -self.score_offset] == self.mark
        return scored & (target != self.padding_idx)

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Logs the text's loss as ``cross_entropy`` does, and each auxiliary loss apart, in nats per token.

        Accuracy, in percent, is that of scored tokens. Where none was scored there is nothing to log.
        """
        tokens = sum(log.get("ntokens", 0) for log in logging_outputs)
        if tokens == 0:
            return
        CrossEntropyCriterion.reduce_metrics(logging_outputs)
        answers = sum(log.get("n_answers", 0) for log in logging_outputs)
        if answers > 0:
            correct = sum(log.get("n_correct", 0) for log in logging_outputs)
            metrics.log_scalar("accuracy", 100 * correct / answers, answers, round=2)
        for name in sorted({name for log in logging_outputs for name in log if name.startswith(PREFIX)}):
            total = sum(log.get(name, 0) for log in logging_outputs)
            metrics.log_scalar(name[len(PREFIX) :], total / tokens, tokens, round=6)


def check_criterion(name: str, memory_type: str, losses: Sequence[str]) -> None:
    """Raises ``UsageError`` where criterion ``name`` leaves out ``losses`` that the memory wants, or fails."""
    if name == "adaptive_loss":
        raise UsageError(
            "--criterion adaptive_loss leaves out a word of each cluster: choose --criterion memory_cross_entropy"
        )
    if losses and name != "memory_cross_entropy":
        raise UsageError(
            f"--criterion {name} leaves out the {' and '.join(losses)} loss of --memory-type {memory_type}: choose "
            "--criterion memory_cross_entropy"
        )
