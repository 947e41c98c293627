"""The flags of the model and of the task, and what must hold between them. No tensors here."""

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from ..core.errors import UsageError
from ..core.memory import KINDS

# The encodings that each memory kind can use, the default first.
ENCODINGS: Dict[str, Tuple[str, ...]] = {name: kind.encodings for name, kind in KINDS.items()}

# Choices are made at run time, as fairseq wants them; a type checker cannot follow.
MEMORY_TYPES = ChoiceEnum(list(ENCODINGS))
POSITION_ENCODINGS = ChoiceEnum(["disentangled", "disentangled-v2", "transformer-xl", "shaw", "absolute"])
COMPRESSIONS = ChoiceEnum(["conv", "dilated-conv", "mean", "max", "most-used"])
LOOK_AHEADS = ChoiceEnum(["incremental", "full"])
MEMORY_RESETS = ChoiceEnum(["never", "document"])
BREAK_MODES = ChoiceEnum(["none", "eos"])
DATASET_IMPLS = ChoiceEnum(get_available_dataset_impl())


@dataclass
class LaMemoConfig(FairseqDataclass):
    """Flags of ``--arch lamemo_lm``."""

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
    look_ahead: LOOK_AHEADS = field(  # type: ignore[valid-type]
        default="incremental",
        metadata={
            "help": "keys of the memory's look-ahead: those not yet seen, or 'full': all that entered last, "
            "on both sides"
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
    max_distance: Optional[int] = field(
        default=None,
        metadata={"help": "shaw: distances with an entry of their own (default: mem-len + tokens-per-sample)"},
    )
    compressed_mem_len: Optional[int] = field(
        default=None, metadata={"help": "compressive: compressed rows that are kept (default: mem-len)"}
    )
    compression_rate: int = field(default=2, metadata={"help": "compressive: rows that become one"})
    compression: COMPRESSIONS = field(  # type: ignore[valid-type]
        default="conv", metadata={"help": "compressive: how rows become one"}
    )
    reconstruction_weight: float = field(
        default=1.0, metadata={"help": "compressive: weight of the loss that trains the compression"}
    )
    long_term_basis: int = field(default=64, metadata={"help": "continuous: bumps that make up the signal"})
    long_term_samples: Optional[int] = field(
        default=None, metadata={"help": "continuous: samples of the old signal in a fit (default: long-term-basis)"}
    )
    long_term_ridge: float = field(default=0.5, metadata={"help": "continuous: penalty of the ridge regression"})
    long_term_contraction: float = field(
        default=0.75, metadata={"help": "continuous: what the old signal is contracted to when rows enter"}
    )
    long_term_sticky: bool = field(
        default=False, metadata={"help": "continuous: keep more of what was read more (sticky memories)"}
    )
    long_term_kl: float = field(
        default=1e-5, metadata={"help": "continuous: weight of the regulariser of the densities' variances"}
    )
    long_term_sigma: float = field(
        default=0.05, metadata={"help": "continuous: standard deviation that the regulariser pulls towards"}
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
        chosen = self.position_encoding
        return ENCODINGS[str(self.memory_type)][0] if chosen is None else str(chosen)

    @property
    def head_dim(self) -> int:
        """d, the width of a head."""
        if self.decoder_head_dim is not None:
            return self.decoder_head_dim
        return self.decoder_embed_dim // self.decoder_attention_heads

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
        allowed = ENCODINGS[str(self.memory_type)]
        if self.encoding not in allowed:
            raise UsageError(
                f"--position-encoding {self.encoding} cannot be used with --memory-type "
                f"{self.memory_type}: choose {' or '.join(allowed)}"
            )
        self.check_flags_of_kinds()
        self.check_vocabulary()
        if self.clamp_len == 0 or self.clamp_len < -1:
            raise UsageError(f"--clamp-len {self.clamp_len} is no distance: choose 1 or more, or -1 for none")
        if self.same_length and self.mem_len == 0:
            raise UsageError("--same-length with --mem-len 0 leaves nothing to see: raise --mem-len")

    def check_flags_of_kinds(self) -> None:
        """A flag of another kind than the one chosen would do nothing."""
        chosen = str(self.memory_type)
        for name, kind in KINDS.items():
            for field_name in kind.flags if name != chosen else ():
                self.refuse_unless_default(field_name, f"--memory-type {name}", f"--memory-type {chosen}")
        if self.encoding != "shaw":
            self.refuse_unless_default(
                "max_distance", "--position-encoding shaw", f"--position-encoding {self.encoding}"
            )
        elif self.max_distance is not None:
            at_least("max_distance", self.max_distance, 1)
        KINDS[chosen].check(self)

    def check_vocabulary(self) -> None:
        """Cutoffs against the dictionary are checked where it is known, in ``vocabulary.py``."""
        softmax = self.adaptive_softmax_cutoff
        if softmax is None:
            for name in ("adaptive_input", "adaptive_softmax_factor", "adaptive_softmax_dropout"):
                self.refuse_unless_default(name, "--adaptive-softmax-cutoff", "the full softmax")
        if not self.adaptive_input:
            for name in ("adaptive_input_cutoff", "adaptive_input_factor", "tie_adaptive_weights"):
                self.refuse_unless_default(name, "--adaptive-input", "full embeddings")
        if self.tie_adaptive_proj and not self.tie_adaptive_weights:
            raise UsageError("--tie-adaptive-proj needs --tie-adaptive-weights: give both, or leave it out")
        if self.tie_adaptive_weights:
            if self.adaptive_input_cutoff not in (None, softmax):
                raise UsageError(
                    f"--tie-adaptive-weights needs equal cutoffs, not --adaptive-input-cutoff "
                    f"{self.adaptive_input_cutoff} and --adaptive-softmax-cutoff {softmax}: leave out the first"
                )
            if self.adaptive_input_factor != self.adaptive_softmax_factor:
                raise UsageError(
                    f"--tie-adaptive-weights needs equal factors, not --adaptive-input-factor "
                    f"{self.adaptive_input_factor:g} and --adaptive-softmax-factor {self.adaptive_softmax_factor:g}: "
                    "choose one for both"
                )

    def refuse_unless_default(self, name: str, needed: str, given: str) -> None:
        """Raises ``UsageError`` where field ``name`` was given, though it means nothing without ``needed``."""
        value, flag = getattr(self, name), name.replace("_", "-")
        if value != self.__dataclass_fields__[name].default:
            shown = "" if value is True else f" {value}"
            raise UsageError(f"--{flag}{shown} needs {needed}, not {given}: leave it out, or choose {needed}")


def at_least(name: str, value: int, least: int) -> None:
    """Raises ``UsageError`` where the flag's value is too small."""
    if value < least:
        flag = name.replace("_", "-")
        raise UsageError(f"--{flag} {value} is too small: choose {least} or more")


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
    csv_log: Optional[str] = field(
        default=None,
        metadata={"help": "write what is logged to this file too, as comma-separated values; a file per run"},
    )
    log_interval: int = II("common.log_interval")
    stop_at_eos: bool = field(
        default=False, metadata={"help": "generation: a </s> ends the text (default: documents go on)"}
    )
    carry_memory: bool = field(
        default=False,
        metadata={"help": "fairseq-generate: each prompt continues from the memory of all text before it in the split"},
    )
    prompt_blocks: Optional[str] = field(
        default=None,
        metadata={"help": "fairseq-generate: blocks of the split to continue, FIRST:END or one number (default: all)"},
    )
    prefix_size: int = II("generation.prefix_size")
    seed: int = II("common.seed")
    context_window: int = II("eval_lm.context_window")
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
