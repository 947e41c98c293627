"""When the memory of one rank's device is not enough for a micro-batch.

Alone, fairseq drops the update and goes on. Among several ranks it does not get through: the rank has nothing to
send where the others wait for its logging outputs, or for its gradients. So that rank sends zeros.
"""

import logging
from typing import Any, Callable, Dict, Tuple

import torch
from torch import Tensor

from .distributed import rank, ranks

logger = logging.getLogger(__name__)

Stepped = Tuple[Tensor, Any, Dict[str, Any]]  # loss, sample size, logging output


def step_or_zeros_on_oom(
    step: Callable[..., Stepped], sample: Dict[str, Any], optimizer: Any, ignore_grad: bool
) -> Stepped:
    """Makes ``step`` with ``sample``; where memory runs out among several ranks, a step that counts nothing.

    What this rank had gathered in earlier micro-batches of the update is lost with it, as fairseq has it too.
    """
    try:
        return step(sample, ignore_grad=ignore_grad)
    except RuntimeError as error:
        if ranks() == 1 or "out of memory" not in str(error):
            raise
        reason = str(error).splitlines()[0]
    # Here the exception is gone, and with it what it kept alive.
    logger.warning("rank %d ran out of memory, and leaves out its part of this update: %s", rank(), reason)
    optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    loss, sample_size, output = step(smallest(sample), ignore_grad=True)
    return loss, sample_size * 0, {name: value * 0 for name, value in output.items()}


def smallest(sample: Dict[str, Any]) -> Dict[str, Any]:
    """One token of ``sample``, which belongs to no stream."""
    inputs = {"src_tokens": sample["net_input"]["src_tokens"][:1, :1], "src_lengths": torch.ones(1, dtype=torch.long)}
    return {**sample, "net_input": inputs, "target": sample["target"][:1, :1], "ntokens": 1, "nsentences": 1}
