"""What fairseq's optimizers for 16 bits leave out of their state: float32 weights, and where the loss scale stands.

Fairseq's ``FP16Optimizer`` (``--fp16``, bf16) trains float32 copies of the weights, and after a resume rebuilds them
from the rounded ones. Its loss scale grows after so many updates without overflow, which it counts anew; that of
``--amp`` begins anew altogether. Here all of it is part of the optimizer's state: saved with it, left out with
``--reset-optimizer``, and no hindrance to a fairseq without this package.
"""

import functools
import logging
from typing import Any, Dict, List

from fairseq.optim import AMPOptimizer, FP16Optimizer
from torch import Tensor

logger = logging.getLogger(__name__)

#: of fairseq's ``DynamicLossScaler``, beside the scale itself
COUNTERS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def float32_weights(optimizer: Any) -> List[Tensor]:
    """The weights that an ``FP16Optimizer`` trains: one flat tensor per device, or one per parameter."""
    weights = optimizer.fp32_params
    return [weight.data for weight in (weights.values() if isinstance(weights, dict) else weights)]


def counters(scaler: Any) -> Dict[str, int]:
    """Where a ``DynamicLossScaler`` stands; empty where none is needed (bf16)."""
    return {} if scaler is None else {name: getattr(scaler, name) for name in COUNTERS}


def restore_counters(scaler: Any, saved: Dict[str, int]) -> None:
    """Sets what :func:`counters` returned."""
    for name, value in saved.items():
        setattr(scaler, name, value)


def restore_float32_weights(optimizer: Any, state: Dict[str, Any]) -> None:
    """Takes the float32 weights from a saved ``state`` of the optimizer, or says that it holds none."""
    if "fp32_params" not in state:
        logger.warning(
            "resume: the checkpoint holds no float32 weights (an earlier version wrote it), so they are rebuilt from "
            "16 bits: close to what they were, not exactly"
        )
        return
    for weight, saved in zip(float32_weights(optimizer), state["fp32_params"]):
        weight.copy_(saved)


def complete(state_dict: Any) -> Any:
    """Wraps an optimizer's ``state_dict``."""

    @functools.wraps(state_dict)
    def complete_state_dict(optimizer: Any) -> Dict[str, Any]:
        state = state_dict(optimizer)
        if isinstance(optimizer, AMPOptimizer):
            return {**state, "grad_scaler": optimizer.scaler.state_dict()}
        state = {**state, "loss_scale_counters": counters(optimizer.scaler)}
        if isinstance(optimizer, FP16Optimizer):
            state["fp32_params"] = float32_weights(optimizer)
        return state

    return complete_state_dict


def restoring(load_state_dict: Any) -> Any:
    """Wraps an optimizer's ``load_state_dict``."""

    @functools.wraps(load_state_dict)
    def restore_state_dict(optimizer: Any, state: Dict[str, Any], optimizer_overrides: Any = None) -> None:
        load_state_dict(optimizer, state, optimizer_overrides)
        if isinstance(optimizer, AMPOptimizer):
            if state.get("grad_scaler") and optimizer.scaler.is_enabled():
                optimizer.scaler.load_state_dict(state["grad_scaler"])
            return
        if optimizer.scaler is not None:
            restore_counters(optimizer.scaler, state.get("loss_scale_counters", {}))
        if isinstance(optimizer, FP16Optimizer):
            restore_float32_weights(optimizer, state)

    return restore_state_dict
