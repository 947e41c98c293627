"""The interface of memories: an immutable state from segment to segment, and the methods that read and update it.

A kind is one file with one class and the flags that it alone has. No kind imports another; layers and attention never
ask which kind they serve. Letters as in ``softmax.py``.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

import torch
from torch import Tensor, nn

from ..softmax import Attention

if TYPE_CHECKING:
    from ..layer import Layer


@dataclass(frozen=True)
class MemorySizes:
    """What a memory needs to know of its model: slots M at most, layers L, D, H, d."""

    mem_len: int
    layers: int
    dim: int
    heads: int
    head_dim: int


def option(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A flag of a kind: a dataclass field with its default, the help that users read, and the values it may take."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(frozen=True)
class MemoryOptions:
    """The flags of a kind, each made by :func:`option`; a kind without any uses this class."""

    def check(self, mem_len: int) -> None:
        """Raises ``UsageError`` where the flags make no memory of ``mem_len`` slots."""


@dataclass(frozen=True)
class MemoryState:
    """Everything that a set of streams keeps between segments. Never written in place, always detached.

    Attributes:
        tensors: by names that the kind chooses, each with the stream as its first dimension.
        length: M, the slots held now, from 0 to mem_len.
        last_written: A, the tokens that entered at the last update.
        documents: [B, M] int64 numbers of the documents that the slots belong to, -1 for a cleared slot;
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
    """What a layer's queries read in a memory that is no keys and values, to be added to attention's output.

    Shapes: ``hidden_states`` [B, n, D]; ``usage`` [B, .], how much the queries read of each part, detached, or None;
    ``loss`` a number per token, or None.
    """

    hidden_states: Tensor
    usage: Optional[Tensor] = None
    loss: Optional[Tensor] = None


@dataclass(frozen=True)
class LayerMemory:
    """What one layer reads of the memory.

    Attributes:
        hidden_states: [B, M, D], older than the segment; M may be 0, and the tensor is never missing.
        previous_attention: attention that the slots gathered in earlier segments, to be continued by a look-ahead;
            None where they are only read.
        long_term: reads a memory that is no keys and values, with the layer's scaled queries [B, H, n, d]; or None.
        recomputed: the slots attend to what is left of them in memory once more, and go up as the segment's tokens do.
        joined: [B, M + N, D], slots and segment as the layer below left them, where they are the same.
    """

    hidden_states: Tensor
    previous_attention: Optional[Attention] = None
    long_term: Optional[Callable[[Tensor], LongTermOutput]] = None
    recomputed: bool = False
    joined: Optional[Tensor] = None

    def cached(self) -> "LayerMemory":
        """For a further chunk while decoding: keys and values of the slots are cached, the rest is not."""
        return LayerMemory(self.hidden_states[:, :0], long_term=self.long_term)


@dataclass
class SegmentRecord:
    """What a segment leaves, layer by layer, for the memory to be updated with.

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
    """A memory kind. Subclasses fill in four methods; the rest is shared.

    Args:
        sizes: of the model.
        options: the kind's own flags, checked; an instance of ``options_class``.
    """

    #: the value of ``--memory-type``
    name: ClassVar[str]
    #: values of ``--position-encoding`` that go with the kind, the default first
    encodings: ClassVar[Tuple[str, ...]] = ("transformer-xl",)
    #: the flags that mean nothing to other kinds
    options_class: ClassVar[Type[MemoryOptions]] = MemoryOptions
    #: whether slots know which document they belong to
    separates_documents: ClassVar[bool] = True

    def __init__(self, sizes: MemorySizes, options: MemoryOptions) -> None:
        super().__init__()
        self.mem_len, self.layers, self.dim = sizes.mem_len, sizes.layers, sizes.dim
        self.heads, self.head_dim = sizes.heads, sizes.head_dim
        #: flags with which a saved state must have been made to be continued
        made_with = {"memory_type": self.name, "mem_len": sizes.mem_len, **asdict(options)}
        self.made_with = {flag: str(value) for flag, value in made_with.items()}
        #: the kind's own flags, as they are where nobody gave them
        self.made_by_default = {flag: str(value) for flag, value in asdict(self.options_class()).items()}

    @property
    def capacity(self) -> int:
        """Slots of a full memory."""
        return self.mem_len

    @property
    def looks_ahead(self) -> bool:
        """Whether slots are refreshed from the lowest layer upwards in every segment, by looking ahead."""
        return False

    @property
    def recomputes(self) -> bool:
        """Whether layers get slots that are ``recomputed`` (:class:`LayerMemory`)."""
        return False

    @property
    def looks_both_ways(self) -> bool:
        """Whether the look-ahead goes to the left too (``--look-ahead full``)."""
        return False

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
        """The hidden states [B, M, D] that go into the lowest layer beside the embeddings ``like`` [B, N, D]."""
        raise NotImplementedError

    def recall(self, state: MemoryState, layer: int, memory_hidden: Tensor) -> LayerMemory:
        """What ``layer`` reads, given the memory's states [B, M, D] that the layer below passed up."""
        raise NotImplementedError

    def decoding_reader(
        self, state: MemoryState, layer: int, like: Tensor
    ) -> Optional[Callable[[Tensor], LongTermOutput]]:
        """``long_term`` of what :meth:`recall` returns, for queries of many single tokens [B, H, 1, d] one by one.

        Overridden by a kind that can compute here, once per segment, what does not depend on the queries; no loss is
        asked for. ``like`` [B, D] is one token's states.
        """
        return self.recall(state, layer, like[:, None][:, :0]).long_term

    def wants_attention(self, layer: int) -> bool:
        """Whether :meth:`update` needs the attention of ``layer`` with its log-sum-exps."""
        return False

    def wants_usage(self, layer: int) -> bool:
        """Whether :meth:`update` needs how much attention each slot of ``layer`` received."""
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
        """First in, first out: ``old`` and the first ``tokens_to_memory`` slots of ``new``, at most mem_len."""
        taken = min(tokens_to_memory, self.mem_len)
        stays = min(old.size(dim), self.mem_len - taken)
        left = old.narrow(dim, old.size(dim) - stays, stays)
        return torch.cat([left, new.detach().narrow(dim, tokens_to_memory - taken, taken)], dim=dim)

    def push_documents(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> Optional[Tensor]:
        """The document numbers of the slots after a segment, or None where there never were any."""
        numbers = self.join_documents(state, record, tokens_to_memory)
        return None if numbers is None else numbers[:, max(0, numbers.size(1) - self.mem_len) :]

    def join_documents(self, state: MemoryState, record: SegmentRecord, tokens_to_memory: int) -> Optional[Tensor]:
        """Document numbers [B, M + tokens_to_memory] of the slots held and of those that enter, None without any."""
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
