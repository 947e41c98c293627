"""One table of presets: a size of a corpus and a variant of the model, each a short difference from the defaults.

``--arch VARIANT_lm_SIZE`` on the command line and the YAML files in ``lamemo_fairseq/config``, made by
``scripts/write_configs.py``, both follow from it (``recipes.py``), and so do the benchmark's counts. Sizes ``*_base``,
and how they are trained: the authors' run scripts (LaMemo, arXiv 2204.07341); they are those of Transformer-XL's base
models for the same corpora (arXiv 1901.02860). Sizes ``*_small`` are ours, for one GPU; nobody has published a number
at them.
"""

from dataclasses import dataclass
from typing import Any, Dict

from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY

from ..core.errors import UsageError

#: variant -> what differs from LaMemo. What is not said is the kind's own default: a compressive memory holds as many
#: compressed slots as plain ones, a continuous signal has 64 basis functions. The authors' scripts have LaMemo alone.
VARIANTS: Dict[str, Dict[str, Any]] = {
    "lamemo": {"memory_type": "lookahead"},
    "lamemo_v2": {"memory_type": "lookahead", "position_encoding": "disentangled-v2"},
    "lamemo_full": {"memory_type": "lookahead", "look_ahead": "full"},
    "lamemo_xl": {"memory_type": "lookahead", "position_encoding": "transformer-xl"},
    "transformer_xl": {"memory_type": "recurrence"},
    "compressive": {"memory_type": "compressive"},
    "infinity_former": {"memory_type": "continuous"},
    "no_memory": {"memory_type": "none"},
}


@dataclass(frozen=True)
class Training:
    """How a size is trained, on all GPUs together.

    Attributes:
        tokens_per_sample: N.
        batch_size: B.
        max_update: updates; the learning rate falls to 0 until then, on a cosine.
        lr: of Adam, at the peak.
        warmup_updates: updates until the peak.
        random_offset: start each epoch elsewhere.
        best_metric: what checkpoints are compared by; ``bpc`` is for characters and bytes.
        save_interval_updates: updates between checkpoints, each validated; the last one is kept. 0: epochs alone.
    """

    tokens_per_sample: int
    batch_size: int
    max_update: int
    lr: float = 2.5e-4
    warmup_updates: int = 0
    random_offset: bool = True
    best_metric: str = "bpc"
    save_interval_updates: int = 5000  # the authors' interval of evaluation


@dataclass(frozen=True)
class Size:
    """Sizes of a model for a corpus.

    Attributes:
        example: folder under ``examples/`` that holds its page.
        vocabulary: V, symbols of the corpus as that page prepares it, for counts.
        model: fields of ``LaMemoConfig``.
        training: how it is trained.
    """

    example: str
    vocabulary: int
    model: Dict[str, Any]
    training: Training


@dataclass(frozen=True)
class Preset:
    """A variant at a size."""

    variant: str
    size: str

    @property
    def model(self) -> Dict[str, Any]:
        """Fields of ``LaMemoConfig`` that differ from its defaults."""
        return {**SIZES[self.size].model, **VARIANTS[self.variant]}

    @property
    def training(self) -> Training:
        return SIZES[self.size].training

    @property
    def example(self) -> str:
        return SIZES[self.size].example

    @property
    def arch(self) -> str:
        """Its name in ``--arch``."""
        return f"{self.variant}_lm_{self.size}"


def sized(layers: int, dim: int, ffn_dim: int, heads: int, mem_len: int) -> Dict[str, Any]:
    """Sizes as fields of ``LaMemoConfig``."""
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": dim,
        "decoder_ffn_embed_dim": ffn_dim,
        "decoder_attention_heads": heads,
        "mem_len": mem_len,
    }


WORDS = "bits_per_token"  # what is compared where tokens are words or pieces of them
SIZES: Dict[str, Size] = {
    "small": Size(
        "shakespeare",
        90,
        sized(4, 128, 512, 4, mem_len=64),
        Training(64, 16, 800, 1e-3, warmup_updates=50, random_offset=False, save_interval_updates=0),
    ),
    "wt103_base": Size(
        "wikitext-103",
        267_735,
        sized(16, 410, 2100, 10, mem_len=150),
        Training(150, 32, 250_000, best_metric=WORDS),
    ),
    "wt103_small": Size(
        "wikitext-103", 267_735, sized(8, 256, 1024, 8, mem_len=150), Training(150, 32, 100_000, best_metric=WORDS)
    ),
    "enwik8_base": Size("enwik8", 204, sized(12, 512, 2048, 8, mem_len=512), Training(512, 20, 50_000)),
    "enwik8_small": Size("enwik8", 204, sized(8, 256, 1024, 8, mem_len=256), Training(256, 32, 50_000)),
    "text8_base": Size("text8", 27, sized(12, 512, 2048, 8, mem_len=512), Training(512, 20, 50_000)),
    "text8_small": Size("text8", 27, sized(8, 256, 1024, 8, mem_len=256), Training(256, 32, 50_000)),
    "pg19_small": Size(
        "pg19", 32_000, sized(12, 512, 2048, 8, mem_len=512), Training(512, 16, 100_000, best_metric=WORDS)
    ),
}

#: architecture -> preset
PRESETS: Dict[str, Preset] = {
    preset.arch: preset for preset in (Preset(variant, size) for size in SIZES for variant in VARIANTS)
}


def check_architecture(cfg: Any) -> None:
    """Raises ``UsageError`` where a configuration of hydra names no architecture; a command line is checked before."""
    name = getattr(cfg, "_name", None)
    if name is not None and name not in MODEL_REGISTRY and name not in ARCH_MODEL_REGISTRY:
        raise UsageError(
            f"model._name={name} is no architecture: choose lamemo_lm, or one of {', '.join(sorted(PRESETS))}"
        )
