"""How the presets are trained: one table, from which the command line and hydra's YAML both follow.

``scripts/write_configs.py`` writes the YAML files under ``examples/``; ``scripts/quickstart.py`` uses the command line.
Values for the authors' sizes are those of their run scripts (batch size: of all GPUs together).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, List

from fairseq.criterions.cross_entropy import CrossEntropyCriterionConfig
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRScheduleConfig

from .config import LaMemoConfig, MemoryLanguageModelingConfig
from .presets import PRESETS


@dataclass(frozen=True)
class Recipe:
    """A preset and how it is trained.

    Attributes:
        preset: name in ``PRESETS``.
        example: folder under ``examples/`` that holds its YAML.
        tokens_per_sample: N in training.
        batch_size: B.
        max_update: updates.
        lr: peak of the cosine schedule.
        warmup_updates: updates until the peak.
        random_offset: start each epoch elsewhere.
        best_metric: what checkpoints are compared by; bits per character need characters.
    """

    preset: str
    example: str
    tokens_per_sample: int
    batch_size: int
    max_update: int
    lr: float
    warmup_updates: int = 0
    random_offset: bool = False
    best_metric: str = "bpc"


RECIPES: Dict[str, Recipe] = {
    "lamemo_small": Recipe("lamemo_lm_small", "shakespeare", 64, 16, 800, 1e-3, warmup_updates=50),
    "lamemo_wt103_base": Recipe(
        "lamemo_lm_wt103_base",
        "wikitext-103",
        150,
        32,
        250_000,
        2.5e-4,
        random_offset=True,
        best_metric="bits_per_token",
    ),
    "lamemo_enwik8_base": Recipe("lamemo_lm_enwik8_base", "enwik8", 512, 20, 50_000, 2.5e-4, random_offset=True),
    "lamemo_text8_base": Recipe("lamemo_lm_text8_base", "text8", 512, 20, 50_000, 2.5e-4, random_offset=True),
}

CLIP_NORM = 0.25  # Transformer-XL's trainer, and the authors'


def hydra_config(recipe: Recipe) -> Dict[str, Any]:
    """The recipe as ``fairseq-hydra-train`` takes it; ``task.data`` and ``common.user_dir`` are the user's.

    Hydra refuses an override of a field that the file does not have, and fairseq merges the plugin's fields too late
    for that: hence every field of model, task, criterion, optimizer and schedule stands in it.
    """
    task = {"data": "???", "tokens_per_sample": recipe.tokens_per_sample, "random_offset": recipe.random_offset}
    return {
        "common": {"user_dir": "???", "seed": 1, "log_interval": 50},
        "checkpoint": {"no_epoch_checkpoints": True, "best_checkpoint_metric": recipe.best_metric},
        "task": {"_name": "memory_language_modeling", **fields(MemoryLanguageModelingConfig), **task},
        "dataset": {"batch_size": recipe.batch_size},
        "criterion": {"_name": "cross_entropy", **fields(CrossEntropyCriterionConfig)},
        "optimization": {"max_update": recipe.max_update, "lr": [recipe.lr], "clip_norm": CLIP_NORM},
        "optimizer": {"_name": "adam", **fields(FairseqAdamConfig)},
        "lr_scheduler": {"_name": "cosine", **fields(CosineLRScheduleConfig), "warmup_updates": recipe.warmup_updates},
        "model": {"_name": "lamemo_lm", **fields(LaMemoConfig), **PRESETS[recipe.preset]},
    }


def fields(config: Any) -> Dict[str, Any]:
    """The fields of a dataclass with their defaults, without those that take another group's value."""
    defaults = {field.name: field.default for field in dataclasses.fields(config) if field.name != "_name"}
    return {name: value for name, value in defaults.items() if not str(value).startswith("${")}


def command_line(recipe: Recipe) -> List[str]:
    """The recipe as flags of ``fairseq-train``; the data directory and ``--user-dir`` are the user's."""
    flags: List[Any] = ["--task", "memory_language_modeling", "--arch", recipe.preset]
    flags += ["--tokens-per-sample", recipe.tokens_per_sample, "--batch-size", recipe.batch_size]
    flags += ["--random-offset"] if recipe.random_offset else []
    flags += ["--criterion", "cross_entropy", "--optimizer", "adam", "--clip-norm", CLIP_NORM]
    flags += ["--lr", recipe.lr, "--lr-scheduler", "cosine", "--warmup-updates", recipe.warmup_updates]
    flags += ["--max-update", recipe.max_update, "--seed", 1, "--log-interval", 50]
    flags += ["--no-epoch-checkpoints", "--best-checkpoint-metric", recipe.best_metric]
    return [str(flag) for flag in flags]
