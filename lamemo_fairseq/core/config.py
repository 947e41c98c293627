"""The model's configuration: plain values, with no framework's types in them."""

from dataclasses import dataclass, field
from typing import Optional

from .documents import Separator
from .encodings import ENCODINGS, PositionEncoding
from .errors import UsageError, check_finite
from .memory import KINDS, Memory, MemoryOptions, MemorySizes
from .vocabulary import VocabularyOptions


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts of a :class:`~.network.MemoryTransformer`. The defaults are those of the flags.

    Attributes:
        vocab_size: V.
        memory: a name in ``memory.KINDS``.
        options: the flags of that kind; None: their defaults.
        mem_len: M, tokens of earlier segments that are kept.
        encoding: a name in ``encodings.ENCODINGS``; None: the memory's first.
        clamp_len: distances above it are encoded as it; None: no limit.
        max_distance: learned distances with an entry of their own; None: mem_len + segment_length.
        same_length: every token attends to equally many others, the memory's capacity.
        layers: L.
        dim: D.
        ffn_dim: width of the feed-forward.
        heads: H.
        head_dim: d; None: D / H.
        normalize_before: layer norm before the projections (pre-norm).
        dropout: on hidden states and encodings.
        attention_dropout: on attention weights.
        checkpoint_activations: compute layers again in the backward pass, to save memory.
        fused: compute attention and a large softmax as one operation each, with less memory, and single tokens on a CPU
            by compiled code (``decode_kernels.py``); False: step by step.
        compile: train with compiled code for the layers, segment by segment of segment_length.
        segment_length: N, tokens after which a decoded segment enters the memory.
        separator: what ends a document while decoding, whose memory then ends too; None: documents are not told apart.
        vocabulary: embeddings and output layer.
        pad: a symbol that stands in no text, whose adaptive embedding gets no gradient.
    """

    vocab_size: int
    memory: str = "lookahead"
    options: Optional[MemoryOptions] = None
    mem_len: int = 128
    encoding: Optional[str] = None
    clamp_len: Optional[int] = None
    max_distance: Optional[int] = None
    same_length: bool = False
    layers: int = 6
    dim: int = 512
    ffn_dim: int = 2048
    heads: int = 8
    head_dim: Optional[int] = None
    normalize_before: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    checkpoint_activations: bool = False
    fused: bool = True
    compile: bool = False
    segment_length: int = 128
    separator: Optional[Separator] = None
    vocabulary: VocabularyOptions = field(default_factory=VocabularyOptions)
    pad: int = 0

    def __post_init__(self) -> None:
        if self.memory not in KINDS:
            raise UsageError(f"--memory-type {self.memory} is not known: choose one of {', '.join(KINDS)}")
        kind = KINDS[self.memory]
        if self.options is not None and type(self.options) is not kind.options_class:
            raise UsageError(f"--memory-type {self.memory} has the options {kind.options_class.__name__}: give these")
        if self.encoding_name not in kind.encodings:
            raise UsageError(
                f"--position-encoding {self.encoding_name} cannot be used with --memory-type "
                f"{self.memory}: choose {' or '.join(kind.encodings)}"
            )
        options = kind.options_class() if self.options is None else self.options
        for flags in (self, options, self.vocabulary):
            check_finite(flags)
        options.check(self.mem_len)
        self.vocabulary.check()

    @property
    def encoding_name(self) -> str:
        """The position encoding, with the kind's own as default."""
        return KINDS[self.memory].encodings[0] if self.encoding is None else self.encoding

    @property
    def head_width(self) -> int:
        """d."""
        return self.dim // self.heads if self.head_dim is None else self.head_dim

    def make_memory(self) -> Memory:
        """The memory, with weights of its own where its kind has some."""
        kind = KINDS[self.memory]
        sizes = MemorySizes(self.mem_len, self.layers, self.dim, self.heads, self.head_width)
        return kind(sizes, kind.options_class() if self.options is None else self.options)

    def make_encoding(self) -> PositionEncoding:
        """The position encoding."""
        entries = self.mem_len + self.segment_length if self.max_distance is None else self.max_distance
        return ENCODINGS[self.encoding_name](self.dim, self.clamp_len, entries)
