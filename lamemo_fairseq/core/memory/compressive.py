"""Compressive Transformer's memory: hidden states that grow old are compressed, not dropped (arXiv 1911.05507).

A layer reads two queues as one, oldest first: compressed slots, then the inputs of the last mem_len tokens as they
were. What leaves the second queue enters the first, c slots as one, c the compression rate. Slow reference:
``compress_*`` and ``content_attention`` in ``tests/reference_family.py``. Letters as in ``softmax.py``; m compressed
slots.

What the paper leaves open, and what is done here:

- A compressed slot counts as one position. Queues begin empty, as Transformer-XL's does, not as slots of zeros.
- Dilation is the smallest that has no factor in common with c, so that no slot is passed over.
- Most-used ranks all slots that leave together by the sum of what they received while they were memory; a slot that
  leaves straight from the segment has received nothing.
- The reconstruction loss is a mean of squares (the paper writes a norm); queries come without the relative position's
  biases, heads are compared before the output projection, and pre-norm normalises raw and compressed slots alike. Its
  gradient reaches the compression alone, but with ``--clip-norm`` it has a part in the norm of all gradients.
- The losses that the paper tries and drops (auto-encoding, back-propagation through time) are not here.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..softmax import softmax_dtype
from .base import LayerMemory, Memory, MemoryOptions, MemorySizes, MemoryState, SegmentRecord, option

if TYPE_CHECKING:
    from ..layer import Layer


@dataclass(frozen=True)
class CompressiveOptions(MemoryOptions):
    """Flags of ``--memory-type compressive``."""

    compressed_mem_len: Optional[int] = option(None, "compressed slots that are kept (default: mem-len)")
    compression_rate: int = option(2, "slots that become one")
    compression: str = option(
        "conv", "how slots become one", choices=("conv", "dilated-conv", "mean", "max", "most-used")
    )
    reconstruction_weight: float = option(1.0, "weight of the loss that trains the compression")

    def compressed_len(self, mem_len: int) -> int:
        """Compressed slots that are held at most: as many as plain ones, unless the flag says otherwise."""
        return mem_len if self.compressed_mem_len is None else self.compressed_mem_len

    def check(self, mem_len: int) -> None:
        rate = self.compression_rate
        if rate < 2:
            raise UsageError(f"--compression-rate {rate} compresses nothing: choose 2 or more")
        if mem_len % rate:
            raise UsageError(f"--compression-rate {rate} does not divide --mem-len {mem_len}: choose a divisor")
        if self.compressed_len(mem_len) < 0:
            raise UsageError(f"--compressed-mem-len {self.compressed_mem_len} is too small: choose 0 or more")
        if self.reconstruction_weight < 0:
            raise UsageError(f"--reconstruction-weight {self.reconstruction_weight} is negative: choose e.g. 1")


class Pool(nn.Module):
    """Each group of c slots becomes its mean, or its maximum per feature. [B, n * c, D] -> [B, n, D]."""

    def __init__(self, rate: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rate, self.pool = rate, pool

    def forward(self, slots: Tensor) -> Tensor:
        return self.pool(slots.unflatten(1, (-1, self.rate)))  # [B, n, c, D] -> [B, n, D]


class Convolution(nn.Module):
    """A 1-D convolution of width and stride c, without bias. [B, n * c, D] -> [B, n, D].

    With a ``dilation`` its last tap stays on a group's last slot, and the others reach back into the groups before, or
    to zeros before the first.
    """

    def __init__(self, dim: int, rate: int, dilation: int) -> None:
        super().__init__()
        self.padding = (rate - 1) * (dilation - 1)
        self.conv = nn.Conv1d(dim, dim, rate, stride=rate, dilation=dilation, bias=False)

    def forward(self, slots: Tensor) -> Tensor:
        slots = slots.to(self.conv.weight)  # outside of autocast nothing else makes 16-bit slots fit float32 weights
        return self.conv(F.pad(slots.transpose(1, 2), (self.padding, 0))).transpose(1, 2)


def dilation(rate: int) -> int:
    """The smallest above 1 that is coprime with c: the c taps then fall on all c places of a group, each in turn."""
    return next(step for step in range(2, rate + 2) if math.gcd(step, rate) == 1)


def most_used(usage: Tensor, rate: int) -> Tensor:
    """Numbers [B, n] of the n slots of n * c with the highest ``usage`` [B, n * c], in their old order."""
    count = usage.size(1) // rate
    return usage.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values


class CompressiveMemory(Memory):
    """The kind behind ``--memory-type compressive``.

    Keeps for each layer ``layer{l}`` [B, M', D] and ``compressed{l}`` [B, m, D], M = m + M'; for most-used also
    ``usage{l}`` [B, M'], the attention that each slot has received per query (mean over heads), summed over
    the segments that read it, float32 or wider.

    Slots leave in whole groups of c, so M' may exceed mem_len by up to c - 1 slots where segments are not multiples
    of c; with multiples of c this is the paper's rule.
    """

    name = "compressive"
    options_class = CompressiveOptions

    def __init__(self, sizes: MemorySizes, options: CompressiveOptions) -> None:
        super().__init__(sizes, options)
        self.rate, self.compressed_len = options.compression_rate, options.compressed_len(sizes.mem_len)
        self.weight = options.reconstruction_weight
        self.selects = options.compression == "most-used"
        makers: Dict[str, Callable[[], nn.Module]] = {
            "mean": lambda: Pool(self.rate, lambda groups: groups.mean(2)),
            "max": lambda: Pool(self.rate, lambda groups: groups.amax(2)),
            "conv": lambda: Convolution(self.dim, self.rate, dilation=1),
            "dilated-conv": lambda: Convolution(self.dim, self.rate, dilation(self.rate)),
        }
        # One compression per layer, as the paper's algorithm 1 has it.
        self.compressions = nn.ModuleList(
            [] if self.selects else [makers[options.compression]() for _ in range(self.layers)]
        )
        # Groups whose slots a compressed slot holds something of: its own, and those that a dilation reaches back into.
        dilated = options.compression == "dilated-conv"
        self.reach = 1 + (math.ceil((self.rate - 1) * (dilation(self.rate) - 1) / self.rate) if dilated else 0)

    @property
    def capacity(self) -> int:
        return self.mem_len + self.compressed_len

    @property
    def span(self) -> int:
        return self.mem_len + self.compressed_len * self.rate

    @property
    def auxiliary_loss_names(self) -> Tuple[str, ...]:
        learns = any(True for _ in self.compressions.parameters())
        return ("reconstruction",) if learns and self.weight > 0 else ()

    def full_length(self, name: str) -> int:
        # Plain slots leave in whole groups, so that up to one less than a group waits beyond mem_len.
        return self.compressed_len if name.startswith("compressed") else self.mem_len + self.rate - 1

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        slots = like.new_zeros(streams, 0, self.dim)
        tensors = {}
        for layer in range(self.layers):
            tensors[f"layer{layer}"], tensors[f"compressed{layer}"] = slots, slots
            if self.selects:
                tensors[f"usage{layer}"] = slots.new_zeros(streams, 0, dtype=softmax_dtype(like.dtype))
        return MemoryState(tensors)

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        return like[:, :0]

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        return LayerMemory(torch.cat([state.tensors[f"compressed{layer}"], state.tensors[f"layer{layer}"]], dim=1))

    def wants_usage(self, layer: int) -> bool:
        return self.selects

    def leaving(self, state: MemoryState, tokens_to_memory: int) -> int:
        """Slots that leave the queue of plain slots when ``tokens_to_memory`` enter it: a multiple of c."""
        held = state.tensors["layer0"].size(1) + tokens_to_memory
        return max(0, held - self.mem_len) // self.rate * self.rate

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        out = self.leaving(state, tokens_to_memory)
        tensors: Dict[str, Tensor] = {}
        held = state.tensors["compressed0"].size(1)
        for layer in range(self.layers):
            slots = torch.cat([state.tensors[f"layer{layer}"], record.inputs[layer][:, :tokens_to_memory]], dim=1)
            new = slots[:, :0]
            if self.selects:
                usage = self.used(state, record, layer, tokens_to_memory)
                tensors[f"usage{layer}"] = usage[:, out:]
                if out > 0:
                    chosen = most_used(usage[:, :out], self.rate)  # [B, out / c]
                    new = slots.gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.dim))
            elif out > 0:
                with torch.no_grad():
                    new = self.compressions[layer](slots[:, :out])
            tensors[f"layer{layer}"] = slots[:, out:]
            tensors[f"compressed{layer}"] = self.last(torch.cat([state.tensors[f"compressed{layer}"], new], dim=1))
        length = tensors["compressed0"].size(1) + tensors["layer0"].size(1)
        return MemoryState(
            tensors, length, tokens_to_memory, self.update_documents(state, record, tokens_to_memory, held, out)
        )

    def last(self, compressed: Tensor) -> Tensor:
        """The newest slots that the compressed queue has room for."""
        return compressed[:, max(0, compressed.size(1) - self.compressed_len) :]

    def used(self, state: MemoryState, record: SegmentRecord, layer: int, tokens_to_memory: int) -> Tensor:
        """Usage [B, M' + tokens_to_memory] of the plain slots, this segment's reading included."""
        before = state.tensors[f"usage{layer}"]
        read = record.usage[layer]
        assert read is not None
        per_query = read[:, state.length - before.size(1) : state.length] / record.embeddings.size(1)
        return torch.cat([before + per_query, before.new_zeros(before.size(0), tokens_to_memory)], dim=1)

    def losses(
        self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int, layers: "Sequence[Layer]"
    ) -> Dict[str, Tensor]:
        """The attention-reconstruction loss (section 3.2, algorithm 2), a mean of squares over B, H, N and d.

        What the segment's states read in the slots that leave, against what they read in their compression, layers
        summed. Only the compression gets gradient: states, slots and the layer's weights are held fixed.
        """
        if not self.auxiliary_loss_names:
            return {}
        out = self.leaving(state, tokens_to_memory)
        terms: List[Tensor] = []
        for layer in range(self.layers):
            if out == 0:
                # Ranks add up gradients of the same parameters in every step.
                terms.extend(0 * weight.sum() for weight in self.compressions[layer].parameters())
                continue
            x = record.inputs[layer].detach()
            slots = torch.cat([state.tensors[f"layer{layer}"], x[:, :tokens_to_memory]], dim=1)[:, :out]
            with torch.no_grad():
                wanted = layers[layer].content_attention(x, slots)
            got = layers[layer].content_attention(x, self.compressions[layer](slots))
            wide = softmax_dtype(x.dtype)
            terms.append(F.mse_loss(got.to(wide), wanted.to(wide)))
        return {"reconstruction": self.weight * torch.stack(terms).sum()}

    def update_documents(
        self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int, held: int, out: int
    ) -> Optional[Tensor]:
        """Document numbers [B, M]; a compressed slot that holds something of two documents is cleared (-1)."""
        numbers = self.join_documents(state, record, tokens_to_memory)
        if numbers is None:
            return None
        compressed, plain = numbers[:, :held], numbers[:, held:]
        leaving = plain[:, :out]
        slots = out // self.rate
        if self.selects:
            # Layers choose different slots: a slot is readable where all the slots that it could hold agree.
            single = leaving.eq(leaving[:, :1]).all(1, keepdim=True)
            new = torch.where(single, leaving[:, :1], -1).expand(-1, slots)
        else:
            groups = leaving.unflatten(1, (slots, self.rate))  # [B, n, c]
            lowest, highest = groups.amin(2), groups.amax(2)
            for _ in range(1, self.reach):
                lowest = torch.cat([lowest[:, :1], torch.minimum(lowest[:, 1:], lowest[:, :-1])], dim=1)
                highest = torch.cat([highest[:, :1], torch.maximum(highest[:, 1:], highest[:, :-1])], dim=1)
            new = torch.where(lowest == highest, lowest, -1)
        return torch.cat([self.last(torch.cat([compressed, new], dim=1)), plain[:, out:]], dim=1)
