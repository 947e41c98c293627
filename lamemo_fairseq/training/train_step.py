"""When an update of the weights begins, and whether it was made: fairseq tells a task neither."""

from typing import Any, Callable, Dict

from fairseq.optim import AMPOptimizer

from ..data.memory_store import MemoryStore, attach
from .metrics import check_room


def prepare(sample: Dict[str, Any], stream: MemoryStore, model: Any, optimizer: Any) -> Dict[str, Any]:
    """A micro-batch with its stream, which is ready to be read on."""
    if not stream.committed and not stream.pending:
        check_room(model.decoder, sample["target"])
    if stream.resumption is not None:
        stream.resumption.finish(stream, model, optimizer)
        stream.resumption = None
    # The trainer clears all gradients before an update's first micro-batch, and after lack of memory.
    if not any(parameter.grad is not None for parameter in model.parameters()):
        stream.begin_update()
    return attach(sample, stream)


def was_made(step: Callable[[], None], optimizer: Any) -> bool:
    """Makes the optimizer's ``step``, and tells whether it changed the weights.

    After an overflow most optimizers do not come here. That of ``--amp`` does, lowers its scale and makes no step.
    """
    if not isinstance(optimizer, AMPOptimizer):
        step()
        return True
    scale = optimizer.scaler.get_scale()
    step()
    return optimizer.scaler.get_scale() >= scale
