"""The loss of the text, and beside it what a memory wants to have minimised."""

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from fairseq.logging import metrics
from torch import Tensor

from ..core.errors import UsageError

# In logging outputs, so that they are told from what fairseq logs.
PREFIX = "auxiliary_"


@dataclass
class MemoryCrossEntropyConfig(CrossEntropyCriterionConfig):
    """Flags of ``--criterion memory_cross_entropy``."""


@register_criterion("memory_cross_entropy", dataclass=MemoryCrossEntropyConfig)
class MemoryCrossEntropyCriterion(CrossEntropyCriterion):
    """Cross entropy of the text, exact for adaptive softmax too, plus the memory's losses.

    What is minimised is text + auxiliary. What is logged as loss, ppl and bpc is the text's alone, comparable
    between memory kinds; each auxiliary loss is logged under its own name, in nats per token, as weighted.
    """

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """(loss, sample size, logging output); without ``reduce`` the text's loss of each token, [B * N]."""
        target = sample["target"]
        log_probs, extra = model(**sample["net_input"], targets=target)
        each = -log_probs.masked_fill(target == self.padding_idx, 0)
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": each.sum().data,
            "ntokens": sample["ntokens"],
            "nsentences": target.size(0),
            "sample_size": sample_size,
        }
        if not reduce:
            return each.flatten(), sample_size, logging_output
        loss = each.sum()
        # A mean per token times the tokens: sums over micro-batches and ranks then weigh it as the text's loss.
        for name, auxiliary in extra.get("losses", {}).items():
            loss = loss + auxiliary * sample["ntokens"]
            logging_output[PREFIX + name] = auxiliary.data * sample["ntokens"]
        return loss, sample_size, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Logs the text's loss as ``cross_entropy`` does, and each auxiliary loss apart, in nats per token."""
        CrossEntropyCriterion.reduce_metrics(logging_outputs)
        tokens = sum(log.get("ntokens", 0) for log in logging_outputs)
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
