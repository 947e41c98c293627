"""The flags of the model and of the task, and what must hold between them. No tensors here."""

from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from typing import Any, List, Optional, Type, TypeVar, get_type_hints

from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from ..core.config import ModelConfig
from ..core.documents import Separator
from ..core.encodings import ENCODINGS
from ..core.errors import UsageError, at_least, refuse_unless_default
from ..core.memory import KINDS
from ..core.vocabulary import VocabularyOptions

Options = TypeVar("Options")

# Choices are made at run time, as fairseq wants them; a type checker cannot follow.
MEMORY_TYPES = ChoiceEnum(list(KINDS))
POSITION_ENCODINGS = ChoiceEnum(list(ENCODINGS))
MEMORY_RESETS = ChoiceEnum(["never", "document"])
BREAK_MODES = ChoiceEnum(["none", "eos"])
DATASET_IMPLS = ChoiceEnum(get_available_dataset_impl())


def plain(value: Any) -> Any:
    """A flag's value without fairseq's type of choices."""
    return value.value if isinstance(value, Enum) else value


def flags_of_kinds() -> Type[FairseqDataclass]:
    """A dataclass of the flags that the memory kinds bring, each as its kind's file describes it."""
    flags: List[Any] = []
    for kind in KINDS.values():
        types = get_type_hints(kind.options_class)
        for option in fields(kind.options_class):
            choices = option.metadata["choices"]
            help_text = {"help": f"{kind.name}: {option.metadata['help']}"}
            kind_of_value = ChoiceEnum(list(choices)) if choices else types[option.name]
            flags.append((option.name, kind_of_value, field(default=option.default, metadata=help_text)))
    return make_dataclass("FlagsOfKinds", flags, bases=(FairseqDataclass,))


@dataclass
class LaMemoConfig(flags_of_kinds()):  # type: ignore[misc]  # a class that is made at run time
    """Flags of ``--arch lamemo_lm``: those of all models, and beside them each memory kind's own."""

    memory_type: MEMORY_TYPES = field(  # type: ignore[valid-type]
        default="lookahead", metadata={"help": "what is kept of earlier segments"}
    )
    position_encoding: Optional[POSITION_ENCODINGS] = field(  # type: ignore[valid-type]
        default=None,
        metadata={
            "help": "how distances enter attention (default: disentangled for lookahead, absolute for none, "
            "transformer-xl for the others)"
        },
    )
    mem_len: int = field(default=128, metadata={"help": "tokens of earlier segments that are kept"})
    clamp_len: int = field(default=-1, metadata={"help": "encode distances above this as this (-1: no limit)"})
    same_length: bool = field(default=False, metadata={"help": "every token attends to equally many others (mem-len)"})
    decoder_layers: int = field(default=6, metadata={"help": "layers"})
    decoder_embed_dim: int = field(default=512, metadata={"help": "width of the model"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "width of the feed-forward"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "attention heads"})
    decoder_head_dim: Optional[int] = field(
        default=None, metadata={"help": "width of a head (default: embed-dim / heads)"}
    )
    decoder_normalize_before: bool = field(
        default=False, metadata={"help": "layer norm before the projections (pre-norm)"}
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout on states and positions"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute layers in the backward pass, to save memory"}
    )
    no_fused_kernels: bool = field(
        default=False,
        metadata={"help": "compute attention and a large softmax step by step: more memory, for comparison"},
    )
    compile: bool = field(
        default=False,
        metadata={"help": "training: compile the layers by torch.compile (needs a C++ compiler; not with --varlen)"},
    )
    max_distance: Optional[int] = field(
        default=None,
        metadata={"help": "shaw: distances with an entry of their own (default: mem-len + tokens-per-sample)"},
    )
    adaptive_input: bool = field(
        default=False, metadata={"help": "embeddings of rarer words are narrower (needs --adaptive-softmax-cutoff)"}
    )
    adaptive_input_cutoff: Optional[str] = field(
        default=None, metadata={"help": "ranks at which embeddings get narrower (default: adaptive-softmax-cutoff)"}
    )
    adaptive_input_factor: float = field(default=4, metadata={"help": "how much narrower each time"})
    adaptive_softmax_cutoff: Optional[str] = field(
        default=None, metadata={"help": "ranks at which the output layer's clusters end, joined by commas"}
    )
    adaptive_softmax_factor: float = field(default=4, metadata={"help": "how much narrower each cluster is"})
    adaptive_softmax_dropout: float = field(default=0.0, metadata={"help": "dropout in the output layer's clusters"})
    tie_adaptive_weights: bool = field(
        default=False, metadata={"help": "adaptive softmax and adaptive input share embeddings"}
    )
    tie_adaptive_proj: bool = field(
        default=False, metadata={"help": "and their projections (needs --tie-adaptive-weights)"}
    )

    @property
    def encoding(self) -> str:
        """The position encoding, with the kind's own as default."""
        chosen = plain(self.position_encoding)
        return KINDS[plain(self.memory_type)].encodings[0] if chosen is None else chosen

    @property
    def head_dim(self) -> int:
        """d, the width of a head."""
        if self.decoder_head_dim is not None:
            return self.decoder_head_dim
        return self.decoder_embed_dim // self.decoder_attention_heads

    @property
    def learns_distances(self) -> bool:
        """Whether distances have entries that are learned, as many as ``max_distance``."""
        return ENCODINGS[self.encoding].learned

    def select(self, options: Type[Options]) -> Options:
        """Those of the flags that the dataclass ``options`` has, as such."""
        return options(**{option.name: plain(getattr(self, option.name)) for option in fields(options)})  # type: ignore[arg-type]

    def model(
        self, vocab_size: int, segment_length: int, separator: Optional[Separator] = None, pad: int = 0
    ) -> ModelConfig:
        """The same in the words of the core, checked."""
        kind = plain(self.memory_type)
        return ModelConfig(
            vocab_size,
            memory=kind,
            options=self.select(KINDS[kind].options_class),
            mem_len=self.mem_len,
            encoding=self.encoding,
            clamp_len=self.clamp_len if self.clamp_len > 0 else None,
            max_distance=self.max_distance,
            same_length=self.same_length,
            layers=self.decoder_layers,
            dim=self.decoder_embed_dim,
            ffn_dim=self.decoder_ffn_embed_dim,
            heads=self.decoder_attention_heads,
            head_dim=self.decoder_head_dim,
            normalize_before=self.decoder_normalize_before,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            checkpoint_activations=self.checkpoint_activations,
            fused=not self.no_fused_kernels,
            compile=self.compile,
            segment_length=segment_length,
            separator=separator,
            vocabulary=self.select(VocabularyOptions),
            pad=pad,
        )

    def check(self) -> None:
        """Raises ``UsageError`` where flags contradict each other, or make no model."""
        for name in ("decoder_layers", "decoder_embed_dim", "decoder_ffn_embed_dim"):
            at_least(name, getattr(self, name), 1)
        at_least("decoder_attention_heads", self.decoder_attention_heads, 1)
        at_least("mem_len", self.mem_len, 0)
        if self.decoder_head_dim is not None:
            at_least("decoder_head_dim", self.decoder_head_dim, 1)
        elif self.decoder_embed_dim % self.decoder_attention_heads:
            raise UsageError(
                f"--decoder-embed-dim {self.decoder_embed_dim} is not divisible by "
                f"--decoder-attention-heads {self.decoder_attention_heads}: choose a divisor, or give "
                "--decoder-head-dim"
            )
        if self.decoder_embed_dim % 2:
            raise UsageError(
                f"--decoder-embed-dim {self.decoder_embed_dim} is odd, but sinusoids come in pairs: "
                "choose an even width"
            )
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} {getattr(self, name)} is not in [0, 1): choose e.g. 0.1")
        self.model(vocab_size=1, segment_length=1)  # which checks the kind, its options and the encoding
        self.check_flags_of_others()
        if self.clamp_len == 0 or self.clamp_len < -1:
            raise UsageError(f"--clamp-len {self.clamp_len} is no distance: choose 1 or more, or -1 for none")
        if self.same_length and self.mem_len == 0:
            raise UsageError("--same-length with --mem-len 0 leaves nothing to see: raise --mem-len")

    def check_flags_of_others(self) -> None:
        """A flag of another kind, or of another encoding, than the one chosen would do nothing."""
        chosen = plain(self.memory_type)
        for name, kind in KINDS.items():
            for option in fields(kind.options_class) if name != chosen else ():
                refuse_unless_default(self, option.name, f"--memory-type {name}", f"--memory-type {chosen}")
        if not self.learns_distances:
            learned = " or ".join(name for name, encoding in ENCODINGS.items() if encoding.learned)
            needed, given = (f"--position-encoding {name}" for name in (learned, self.encoding))
            refuse_unless_default(self, "max_distance", needed, given)
        elif self.max_distance is not None:
            at_least("max_distance", self.max_distance, 1)


@dataclass
class MemoryLanguageModelingConfig(FairseqDataclass):
    """Flags of ``--task memory_language_modeling``."""

    data: Optional[str] = field(
        default=None,
        metadata={"help": "directory that fairseq-preprocess made; several, joined by colons, take turns"},
    )
    tokens_per_sample: int = field(default=128, metadata={"help": "tokens in a segment, per stream"})
    random_offset: bool = field(
        default=False,
        metadata={"help": "each training epoch begins at another place of the text, drawn from the seed"},
    )
    memory_reset: MEMORY_RESETS = field(  # type: ignore[valid-type]
        default="never", metadata={"help": "where a stream's memory is cleared: 'document' at every new document"}
    )
    document_separator: Optional[str] = field(
        default=None, metadata={"help": "symbol that ends a document (default: a blank line does)"}
    )
    stream_warmup: Optional[int] = field(
        default=None,
        metadata={
            "help": "evaluation with several streams or shards: tokens that each but the first reads before its "
            "own, unscored (default: the memory length plus the context window, which fill the memory; 0: every "
            "stream starts cold)"
        },
    )
    sample_break_mode: BREAK_MODES = field(  # type: ignore[valid-type]
        default="none",
        metadata={"help": "'eos': evaluation scores every line for itself, with an empty memory"},
    )
    varlen: bool = field(
        default=False,
        metadata={"help": "training segments of other lengths, drawn around tokens-per-sample from the seed"},
    )
    no_save_memory: bool = field(
        default=False,
        metadata={"help": "leave the memory out of checkpoints: smaller ones, but resuming is not exact"},
    )
    finetune_memory: bool = field(
        default=False,
        metadata={
            "help": "with --finetune-from-model: the new text begins behind the memory that the checkpoint holds"
        },
    )
    csv_log: Optional[str] = field(
        default=None,
        metadata={"help": "write what is logged to this file too, as comma-separated values; a file per run"},
    )
    log_interval: int = II("common.log_interval")
    stop_at_eos: bool = field(
        default=False, metadata={"help": "generation: a </s> ends the text (default: documents go on)"}
    )
    write_unk: bool = field(default=False, metadata={"help": "generation: <unk> may be written (default: never)"})
    carry_memory: bool = field(
        default=False,
        metadata={
            "help": "each prompt continues from the memory of all text before it: in the split (fairseq-generate), or "
            "in the lines before it and their answers (fairseq-interactive; a line /clear forgets them)"
        },
    )
    prompt_blocks: Optional[str] = field(
        default=None,
        metadata={"help": "fairseq-generate: blocks of the split to continue, FIRST:END or one number (default: all)"},
    )
    prefix_size: int = II("generation.prefix_size")
    seed: int = II("common.seed")
    context_window: int = II("eval_lm.context_window")
    path: Optional[str] = II("common_eval.path")
    batch_size: Optional[int] = II("dataset.batch_size")
    batch_size_valid: Optional[int] = II("dataset.batch_size_valid")
    train_subset: str = II("dataset.train_subset")
    dataset_impl: Optional[DATASET_IMPLS] = II("dataset.dataset_impl")  # type: ignore[valid-type]

    def check(self) -> None:
        """Raises ``UsageError`` where a value makes no task."""
        if self.tokens_per_sample < 1 <= self.context_window:
            raise UsageError(
                f"--context-window {self.context_window} is not below --tokens-per-sample "
                f"{self.tokens_per_sample + self.context_window}, so that no token of a segment would be new: choose "
                "a smaller window, or longer segments"
            )
        at_least("tokens_per_sample", self.tokens_per_sample, 1)
        at_least("log_interval", self.log_interval, 1)
        for name in ("batch_size", "batch_size_valid"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.stream_warmup is not None:
            at_least("stream_warmup", self.stream_warmup, 0)
        if self.document_separator is not None and str(self.memory_reset) == "never":
            raise UsageError(
                f"--document-separator {self.document_separator} has no effect with --memory-reset never: choose "
                "--memory-reset document, or leave it out"
            )
