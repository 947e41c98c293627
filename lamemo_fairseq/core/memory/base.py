"""What a memory is: a state that is handed from segment to segment, and the verbs that work on it.

A kind is one file with one class. No kind imports another; layers and attention never ask which kind they
serve. Letters as in ``ops.py``; L is the number of layers.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Callable, ClassVar, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..softmax import Attention

if TYPE_CHECKING:
    from ...plugin.config import LaMemoConfig
    from ..layer import Layer


@dataclass(frozen=True)
class MemoryState:
    """Everything that a set of streams keeps between segments. Never written in place, always detached.

    Attributes:
        tensors: by names that the kind chooses, each with the stream as its first dimension.
        length: M, the rows held now, from 0 to mem_len.
        last_written: A, the tokens that entered at the last update.
        documents: [B, M] int64 numbers of the documents that the rows belong to, -1 for a cleared row;
            None where each stream is one document.
        last: [B] ids of the tokens read last, by which a decoder knows where a document ends; else None.
    """

    tensors: Dict[str, Tensor]
    length: int = 0
    last_written: int = 0
    documents: Optional[Tensor] = None
    last: Optional[Tensor] = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "MemoryState":
        """The state with ``function`` applied to each tensor."""
        documents = None if self.documents is None else function(self.documents)
        last = None if self.last is None else function(self.last)
        tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, documents=documents, last=last)

    def select(self, order: Tensor) -> "MemoryState":
        """The streams in another order, as beam search asks for it: ``order`` [B'] of stream numbers."""
        return self.map(lambda tensor: tensor.index_select(0, order))

    def like(self, other: "MemoryState") -> "MemoryState":
        """The state in the types and on the device of ``other``: what a checkpoint held comes as it was saved."""
        tensors = {name: tensor.to(other.tensors[name]) for name, tensor in self.tensors.items()}
        device = next(iter(other.tensors.values())).device if other.tensors else None
        documents = None if self.documents is None else self.documents.to(device)
        return replace(self, tensors=tensors, documents=documents)

    def is_finite(self) -> bool:
        """Whether no value is infinite or not a number: such a state would poison all that follows it."""
        finite = [torch.isfinite(t).all() for t in self.tensors.values()]
        return not finite or bool(torch.stack(finite).all())  # one answer to wait for on a GPU, not one per tensor

    @property
    def streams(self) -> int:
        """B, the number of streams."""
        return next(iter(self.tensors.values())).size(0) if self.tensors else 0


class LongTermOutput(NamedTuple):
    """What a layer's queries found in a memory that is no rows of keys, to be added to attention's output.

    Shapes: ``rows`` [B, n, D]; ``usage`` [B, .], how much the queries read of each part, detached, or None;
    ``loss`` a number per token, or None.
    """

    rows: Tensor
    usage: Optional[Tensor] = None
    loss: Optional[Tensor] = None


@dataclass(frozen=True)
class LayerMemory:
    """What one layer reads.

    Attributes:
        rows: [B, M, D], older than the segment; M may be 0, and the tensor is never missing.
        previous_attention: attention that the rows gathered in earlier segments, to be continued by a look-ahead; None
            where rows are only read.
        beyond: reads a memory that is no rows, with the layer's scaled queries [B, H, n, d]; None without one.
    """

    rows: Tensor
    previous_attention: Optional[Attention] = None
    beyond: Optional[Callable[[Tensor], LongTermOutput]] = None

    def reread(self) -> "LayerMemory":
        """For a further chunk of an open segment: keys and values of the rows are cached, the rest is not."""
        return LayerMemory(self.rows[:, :0], beyond=self.beyond)


@dataclass
class SegmentRecord:
    """What a segment leaves behind, layer by layer, for the memory to take in.

    Attributes:
        embeddings: [B, N, D], scaled, after dropout.
        inputs: per layer, the current tokens' states [B, N, D] that went into it.
        attention_state: per layer, the attention of memory and current tokens [B, H, M + N, .], None where the kind
            asked for none.
        usage: per layer, how much was read of each part of the memory, summed over the segment's tokens,
            None where the kind asked for none.
        losses: per layer, what :class:`LongTermOutput` returned.
        documents: [B, N] or None.
    """

    embeddings: Tensor
    inputs: List[Tensor] = field(default_factory=list)
    attention_state: List[Optional[Attention]] = field(default_factory=list)
    usage: List[Optional[Tensor]] = field(default_factory=list)
    losses: List[Optional[Tensor]] = field(default_factory=list)
    documents: Optional[Tensor] = None


class Memory(nn.Module):
    """A memory kind. Subclasses fill in four verbs; the rest is shared.

    Args:
        cfg: the model's configuration, checked.
    """

    #: values of ``--position-encoding`` that go with the kind, the default first
    encodings: ClassVar[Tuple[str, ...]] = ("transformer-xl",)
    #: fields of the configuration that mean nothing to other kinds
    flags: ClassVar[Tuple[str, ...]] = ()
    #: whether rows are refreshed from the bottom up in every segment, by looking ahead
    looks_ahead: ClassVar[bool] = False
    #: whether rows know which document they belong to
    separates_documents: ClassVar[bool] = True

    def __init__(self, cfg: "LaMemoConfig") -> None:
        super().__init__()
        self.mem_len, self.layers, self.dim = cfg.mem_len, cfg.decoder_layers, cfg.decoder_embed_dim
        self.heads, self.head_dim = cfg.decoder_attention_heads, cfg.head_dim
        #: flags with which a saved state must have been made to be continued
        self.made_with = {name: str(getattr(cfg, name)) for name in ("memory_type", "mem_len", *self.flags)}

    @classmethod
    def check(cls, cfg: "LaMemoConfig") -> None:
        """Raises ``UsageError`` where the kind's own flags make no memory."""

    @classmethod
    def capacity(cls, cfg: "LaMemoConfig") -> int:
        """Rows that a full memory holds."""
        return cfg.mem_len

    @property
    def auxiliary_loss_names(self) -> Tuple[str, ...]:
        """Names of the losses that :meth:`losses` returns in training."""
        return ()

    @property
    def span(self) -> int:
        """Tokens of text of which a full memory holds something."""
        return self.mem_len

    def full_length(self, name: str) -> int:
        """The most that the growing dimension of a state's tensor ``name`` comes to, whatever segments are read."""
        return self.mem_len

    def full_bytes(self, streams: int, like: Tensor) -> int:
        """Size of the tensors of a full memory of B ``streams``, typed as ``like``."""
        total = 0
        for name, tensor in self.empty(1, like).tensors.items():
            shape = [self.full_length(name) if size == 0 else size for size in tensor.shape]
            total += torch.Size(shape).numel() * tensor.element_size()
        return streams * total

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        """The state before anything was read, for B ``streams``, in the type and on the device of ``like``."""
        raise NotImplementedError

    def input_memory(self, state: MemoryState, like: Tensor) -> Tensor:
        """The rows [B, M, D] that go into the lowest layer beside the embeddings ``like`` [B, N, D]."""
        raise NotImplementedError

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        """What ``layer`` reads, given the rows [B, M, D] that the layer below passed up."""
        raise NotImplementedError

    def wants_attention(self, layer: int) -> bool:
        """Whether :meth:`update` needs the attention of ``layer`` with its log-sum-exps."""
        return False

    def wants_usage(self, layer: int) -> bool:
        """Whether :meth:`update` needs how much attention each row of ``layer`` received."""
        return False

    def losses(
        self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int, layers: "Sequence[Layer]"
    ) -> Dict[str, Tensor]:
        """Losses of a training segment beside the text's, weighted, in nats per token; see ``criterion.py``."""
        return {}

    def update(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> MemoryState:
        """The state after a segment of which the first ``tokens_to_memory`` tokens enter the memory.

        Called outside of autocast (:func:`~..softmax.full_precision`): what is kept is read for a long time.
        """
        raise NotImplementedError

    def push(self, old: Tensor, new: Tensor, tokens_to_memory: int, dim: int = 1) -> Tensor:
        """First in, first out: ``old`` and the first ``tokens_to_memory`` rows of ``new``, the last mem_len of them."""
        taken = min(tokens_to_memory, self.mem_len)
        stays = min(old.size(dim), self.mem_len - taken)
        left = old.narrow(dim, old.size(dim) - stays, stays)
        return torch.cat([left, new.detach().narrow(dim, tokens_to_memory - taken, taken)], dim=dim)

    def push_documents(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> Optional[Tensor]:
        """The document numbers of the rows after a segment, or None where there never were any."""
        numbers = self.join_documents(state, record, tokens_to_memory)
        return None if numbers is None else numbers[:, max(0, numbers.size(1) - self.mem_len) :]

    def join_documents(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> Optional[Tensor]:
        """The document numbers [B, M + advance] of the rows held and those that enter, or None without any."""
        if state.documents is None and record.documents is None:
            return None
        streams, tokens = record.embeddings.shape[:2]
        old, new = state.documents, record.documents
        like = old if new is None else new
        assert like is not None
        if old is None:
            old = like.new_zeros(streams, state.length)
        if new is None:
            new = like.new_zeros(streams, tokens)
        return torch.cat([old, new[:, :tokens_to_memory]], dim=1)
