"""Look-ahead memory (LaMemo, arXiv 2204.07341): its tokens go on attending to what comes after them.

Kept are the embeddings of the last mem_len tokens and, per layer, what these tokens' attention has gathered so
far with its log-sum-exp. A layer's hidden states are not kept: they are recomputed in each segment, from the
embeddings upward, because looking ahead changes them. Slow reference: ``segment`` in ``tests/reference.py``.

Two things set it apart from Transformer-XL: a slot sees what comes after it, and, since slots are recomputed, the
loss of a segment trains what the slots before it hold. ``--look-ahead none`` and ``--detach-memory`` have one without
the other.
"""

from dataclasses import dataclass

from torch import Tensor

from ..errors import UsageError
from ..softmax import Attention, softmax_dtype
from .base import LayerMemory, Memory, MemoryOptions, MemorySizes, MemoryState, SegmentRecord, option


@dataclass(frozen=True)
class LookAheadOptions(MemoryOptions):
    """Flags of ``--memory-type lookahead``."""

    look_ahead: str = option(
        "incremental",
        "keys of the memory's look-ahead: those not yet seen, 'full': all that entered last, on both sides, or "
        "'none': the memory is recomputed, with gradient, from the memory to its left",
        choices=("incremental", "full", "none"),
    )
    detach_memory: bool = option(False, "no gradient from the segment through what the memory recomputes")

    def check(self, mem_len: int) -> None:
        if self.detach_memory and self.look_ahead == "none":
            raise UsageError(
                "--detach-memory with --look-ahead none leaves neither sight nor gradient: leave one out, or choose "
                "--memory-type recurrence"
            )


class LookAheadMemory(Memory):
    """The kind behind ``--memory-type lookahead``.

    Keeps ``embeddings`` [B, M, D], and for each layer but the last, whose memory states nobody reads,
    ``output{l}`` [B, H, M, d] and ``lse{l}`` [B, H, M] (float32 or wider); with ``--look-ahead none`` the embeddings
    alone.
    """

    name = "lookahead"
    encodings = ("disentangled", "disentangled-v2", "transformer-xl")
    options_class = LookAheadOptions

    def __init__(self, sizes: MemorySizes, options: LookAheadOptions) -> None:
        super().__init__(sizes, options)
        self.look_ahead, self.detaches = options.look_ahead, options.detach_memory
        #: layers whose memory slots look ahead: nobody reads those of the last
        self.looking = range(0 if options.look_ahead == "none" else self.layers - 1)

    @property
    def looks_ahead(self) -> bool:
        return not self.recomputes

    @property
    def recomputes(self) -> bool:
        return self.look_ahead == "none"

    @property
    def looks_both_ways(self) -> bool:
        return self.look_ahead == "full"

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        tensors = {"embeddings": like.new_zeros(streams, 0, self.dim)}
        for layer in self.looking:
            tensors[f"output{layer}"] = like.new_zeros(streams, self.heads, 0, self.head_dim)
            tensors[f"lse{layer}"] = like.new_zeros(streams, self.heads, 0, dtype=softmax_dtype(like.dtype))
        return MemoryState(tensors)

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return state.tensors["embeddings"]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        if self.detaches:
            memory_hidden = memory_hidden.detach()
        if not self.wants_attention(layer):
            return LayerMemory(memory_hidden, recomputed=self.recomputes and layer < self.layers - 1)
        previous_attention = Attention(state.tensors[f"output{layer}"], state.tensors[f"lse{layer}"])
        return LayerMemory(memory_hidden, previous_attention)

    def wants_attention(self, layer: int) -> bool:
        return layer in self.looking

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        tensors = {"embeddings": self.push(state.tensors["embeddings"], record.embeddings, tokens_to_memory)}
        for layer in self.looking:
            attention_state = record.attention_state[layer]
            assert attention_state is not None
            for name, tensor in ((f"output{layer}", attention_state.output), (f"lse{layer}", attention_state.lse)):
                refreshed, new = tensor.detach().split([state.length, tensor.size(2) - state.length], 2)
                tensors[name] = self.push(refreshed, new, tokens_to_memory, dim=2)
        length = tensors["embeddings"].size(1)
        return MemoryState(tensors, length, tokens_to_memory, self.push_documents(state, record, tokens_to_memory))
