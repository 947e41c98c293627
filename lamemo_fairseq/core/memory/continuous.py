"""Infinity-former's memory: the distant past as a continuous signal of fixed size (arXiv 2109.00301).

A layer reads the inputs of the last mem_len tokens as slots. Slots that leave them enter a signal on [0, 1], a sum of
Gaussians whose coefficients are fitted by ridge regression. Each query reads the signal through a Gaussian
density of its own. To make room, the signal is contracted to [0, tau], so it never ends and costs the same forever.
Letters as in ``softmax.py``; S points at which a signal is sampled, E basis functions, L slots that enter.
Slow reference: ``ridge``, ``gaussian_attention`` and ``kl`` in ``tests/reference_family.py``.

What the paper leaves open, and what is done here:

- Widths, ridge, tau and the weight of the regulariser differ between the paper's experiments; each is a flag, but for
  the widths (``WIDTHS``), which are those of its sorting task and grow where basis functions are few.
- Values stand in the middles of equal parts of the interval that they fill. A contraction happens once per segment,
  however many slots leave: shorter segments than in training make the signal forget faster per token.
- Sticky: parts of [0, 1] are as many as basis functions; places are quantiles instead of draws; the samples are spread
  evenly over [0, tau], which is what gives room to what was read. ``HEADROOM`` bounds what repeated stretching can add
  up to.
- Slots enter as the layer's inputs, without a gate in front of the fit, and before a pre-norm; queries come without
  the relative position's biases; both affine maps have a bias. Heads are summed in the regulariser.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..softmax import softmax_dtype
from .base import (
    LayerMemory,
    Memory,
    MemoryOptions,
    MemorySizes,
    MemoryState,
    SegmentRecord,
    option,
)
from .signal import WIDTHS, evaluate, midpoints, quantiles, regression
from .signal_attention import SignalAttention, SignalReader

if TYPE_CHECKING:
    from ..layer import Layer

# A sticky signal may be this many times as high as the slots that enter it.
HEADROOM = 4.0


@dataclass(frozen=True)
class ContinuousOptions(MemoryOptions):
    """Flags of ``--memory-type continuous``."""

    long_term_basis: int = option(64, "basis functions that make up the signal")
    long_term_samples: Optional[int] = option(None, "samples of the old signal in a fit (default: long-term-basis)")
    long_term_ridge: float = option(0.5, "penalty of the ridge regression")
    long_term_contraction: float = option(0.75, "what the old signal is contracted to when slots enter")
    long_term_sticky: bool = option(False, "keep more of what was read more (sticky memories)")
    long_term_kl: float = option(1e-5, "weight of the regulariser of the densities' variances")
    long_term_sigma: float = option(0.05, "standard deviation that the regulariser pulls towards")

    @property
    def samples(self) -> int:
        """Points at which the old signal is sampled: as many as basis functions, unless the flag says otherwise."""
        return self.long_term_basis if self.long_term_samples is None else self.long_term_samples

    def check(self, mem_len: int) -> None:
        least = 2 * len(WIDTHS)
        if self.long_term_basis < least or self.long_term_basis % len(WIDTHS):
            raise UsageError(
                f"--long-term-basis {self.long_term_basis} makes no basis: choose a multiple of {len(WIDTHS)}, one "
                f"part for each width, of {least} or more"
            )
        if self.samples < 1:
            raise UsageError(f"--long-term-samples {self.long_term_samples} is too small: choose 1 or more")
        if not 0 < self.long_term_contraction < 1:
            raise UsageError(f"--long-term-contraction {self.long_term_contraction} is not in (0, 1): choose e.g. 0.75")
        if self.long_term_ridge <= 0:
            raise UsageError(f"--long-term-ridge {self.long_term_ridge} is not positive: choose e.g. 0.5")
        # The fit of a full memory; one that is smaller needs no more.
        regression(
            self.samples,
            max(1, mem_len),
            self.long_term_contraction,
            self.long_term_basis,
            self.long_term_ridge,
            torch.device("cpu"),
        )
        if self.long_term_sigma <= 0:
            raise UsageError(f"--long-term-sigma {self.long_term_sigma} is not positive: choose e.g. 0.05")
        if self.long_term_kl < 0:
            raise UsageError(f"--long-term-kl {self.long_term_kl} is negative: choose e.g. 1e-5, or 0 for none")


class ContinuousMemory(Memory):
    """The kind behind ``--memory-type continuous``.

    Keeps for each layer ``layer{l}`` [B, M, D], as recurrence does, and ``signal{l}`` [B, E, D], float32 or wider,
    of length zero until a slot has left the others.
    """

    name = "continuous"
    options_class = ContinuousOptions
    separates_documents = False

    def __init__(self, sizes: MemorySizes, options: ContinuousOptions) -> None:
        super().__init__(sizes, options)
        self.basis_functions, self.samples = options.long_term_basis, options.samples
        self.ridge, self.tau = options.long_term_ridge, options.long_term_contraction
        self.sticky, self.weight = options.long_term_sticky, options.long_term_kl
        arguments = (self.dim, self.heads, self.head_dim, self.basis_functions, options.long_term_sigma, self.sticky)
        self.attentions = nn.ModuleList(SignalAttention(*arguments) for _ in range(self.layers))

    @property
    def auxiliary_loss_names(self) -> Tuple[str, ...]:
        return ("kl",) if self.weight > 0 else ()

    @property
    def span(self) -> int:
        """The signal never ends; at tau = 3/4 and segments of mem_len, nine tenths of it are of this many tokens.

        Sticky memories can be far older: what is scored with several streams then depends on how many (see
        ``--stream-warmup``).
        """
        return 9 * self.mem_len

    def full_length(self, name: str) -> int:
        return self.basis_functions if name.startswith("signal") else self.mem_len

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        tensors = {}
        for layer in range(self.layers):
            tensors[f"layer{layer}"] = like.new_zeros(streams, 0, self.dim)
            tensors[f"signal{layer}"] = like.new_zeros(streams, 0, self.dim, dtype=softmax_dtype(like.dtype))
        return MemoryState(tensors)

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        slots, signal = state.tensors[f"layer{layer}"], state.tensors[f"signal{layer}"]
        if signal.size(1) == 0:
            return LayerMemory(slots)
        return LayerMemory(slots, long_term=partial(self.attentions[layer], signal))

    def decoding_reader(self, state: MemoryState, layer: int, like: Tensor) -> SignalReader:
        attention = self.attentions[layer]
        assert isinstance(attention, SignalAttention)
        return SignalReader(attention, state.tensors[f"signal{layer}"])

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        tensors = {}
        for layer in range(self.layers):
            slots = torch.cat([state.tensors[f"layer{layer}"], record.inputs[layer][:, :tokens_to_memory]], dim=1)
            out = max(0, slots.size(1) - self.mem_len)
            tensors[f"layer{layer}"] = slots[:, out:]
            signal = state.tensors[f"signal{layer}"]
            usage = record.usage[layer] if signal.size(1) > 0 else None
            tensors[f"signal{layer}"] = self.extend(signal, slots[:, :out], usage) if out > 0 else signal
        return MemoryState(tensors, tensors["layer0"].size(1), tokens_to_memory)

    def extend(self, signal: Tensor, slots: Tensor, usage: Optional[Tensor]) -> Tensor:
        """The signal [B, E, D] contracted, with ``slots`` [B, L, D] behind it.

        Where the queries' ``usage`` is known, what was read more gets more of the samples, and thereby more of
        [0, tau] ("sticky memories").
        """
        values, past = slots.to(signal.dtype), 0
        if signal.size(1) > 0:
            past = self.samples
            if usage is None:
                places = midpoints(past, 0, 1, signal)
            else:
                places = quantiles(usage.to(signal.dtype), past)
            values = torch.cat([evaluate(places, self.basis_functions) @ signal, values], dim=1)  # [B, S + L, D]
        fit = regression(past, slots.size(1), self.tau, self.basis_functions, self.ridge, signal.device)
        fitted = fit.T.to(signal.dtype) @ values
        return fitted if usage is None else self.bounded(fitted, slots)

    def bounded(self, signal: Tensor, slots: Tensor) -> Tensor:
        """``signal`` [B, E, D], lower where it is more than HEADROOM times as high as a stream's ``slots`` [B, L, D].

        A fit rings at the seam between old and new. Contracted evenly, that dies out; but where one place is read and
        stretched again and again, the ringing is as well, and would grow without end.
        """
        heights = (
            (evaluate(midpoints(2 * self.basis_functions, 0, 1, signal), self.basis_functions) @ signal)
            .abs()
            .amax((1, 2))
        )
        limits = HEADROOM * slots.to(signal.dtype).abs().amax((1, 2))
        return signal * (limits / heights.clamp_min(1e-30)).clamp(max=1)[:, None, None]

    def losses(
        self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int, layers: "Sequence[Layer]"
    ) -> Dict[str, Tensor]:
        """The KL regulariser of the densities' variances, a mean over tokens; heads and layers are summed."""
        if not self.auxiliary_loss_names:
            return {}
        terms = [loss for loss in record.losses if loss is not None]
        # Ranks add up gradients of the same parameters in every step, so the first segment has a loss too.
        terms += [0 * weight.sum() for weight in self.parameters()] if not terms else []
        return {"kl": self.weight * torch.stack(terms).sum()}
