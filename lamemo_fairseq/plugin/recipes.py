"""A preset as fairseq takes it: flags of the command line, or YAML for hydra. The table itself is ``presets.py``.

``scripts/write_configs.py`` writes the YAML files in ``config/``: a whole file per size, with LaMemo's model, and
beside it a group ``variant`` of short ones, so that ``+variant=transformer_xl`` takes another model, and ``--multirun
+variant=lamemo,transformer_xl`` trains several.
"""

import dataclasses
from typing import Any, Dict, List

from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRScheduleConfig

from .config import LaMemoConfig, MemoryLanguageModelingConfig
from .criterion import MemoryCrossEntropyConfig
from .presets import SIZES, VARIANTS, Preset

# As published by Transformer-XL and LaMemo, of the gradient of the mean loss per token, in nats. The authors' program
# halves its loss before it clips, which Adam does not notice otherwise, so that its 0.25 acts as 0.5 does here. The
# baselines of other sources are clipped at 0.25: one value for all rows of a table.
CLIP_NORM = 0.25
# Exact for every kind: those with losses of their own need it; with a large vocabulary it makes no scores of all words.
CRITERION = "memory_cross_entropy"


def hydra_config(size: str) -> Dict[str, Any]:
    """LaMemo at a size as ``fairseq-hydra-train`` takes it; ``task.data`` is the user's.

    Hydra refuses an override of a field that the file does not have, and fairseq merges the plugin's fields too late
    for that: hence every field of model, task, criterion, optimizer and schedule stands in it.
    """
    preset, training = Preset("lamemo", size), SIZES[size].training
    task = {"data": "???", "tokens_per_sample": training.tokens_per_sample, "random_offset": training.random_offset}
    return {
        "common": {"seed": 1, "log_interval": 50},
        "checkpoint": {
            "no_epoch_checkpoints": True,
            "best_checkpoint_metric": training.best_metric,
            "save_interval_updates": training.save_interval_updates,
            "keep_interval_updates": 1,
        },
        "task": {"_name": "memory_language_modeling", **fields(MemoryLanguageModelingConfig), **task},
        "dataset": {"batch_size": training.batch_size},
        "criterion": {"_name": CRITERION, **fields(MemoryCrossEntropyConfig)},
        "optimization": {"max_update": training.max_update, "lr": [training.lr], "clip_norm": CLIP_NORM},
        "optimizer": {"_name": "adam", **fields(FairseqAdamConfig)},
        "lr_scheduler": {
            "_name": "cosine",
            **fields(CosineLRScheduleConfig),
            "warmup_updates": training.warmup_updates,
        },
        "model": {"_name": "lamemo_lm", **fields(LaMemoConfig), **preset.model},
    }


def variant_config(variant: str) -> Dict[str, Any]:
    """A file of the group ``variant``: fields of ``model``, put over those of a size."""
    return dict(VARIANTS[variant])


def fields(config: Any) -> Dict[str, Any]:
    """The fields of a dataclass with their defaults, without those that take another group's value."""
    defaults = {field.name: field.default for field in dataclasses.fields(config) if field.name != "_name"}
    return {name: value for name, value in defaults.items() if not str(value).startswith("${")}


def command_line(preset: Preset) -> List[str]:
    """The preset as flags of ``fairseq-train``; the data directory and ``--user-dir`` are the user's."""
    training = preset.training
    flags: List[Any] = ["--task", "memory_language_modeling", "--arch", preset.arch]
    flags += ["--tokens-per-sample", training.tokens_per_sample, "--batch-size", training.batch_size]
    flags += ["--random-offset"] if training.random_offset else []
    flags += ["--criterion", CRITERION, "--optimizer", "adam", "--clip-norm", CLIP_NORM]
    flags += ["--lr", training.lr, "--lr-scheduler", "cosine", "--warmup-updates", training.warmup_updates]
    flags += ["--max-update", training.max_update, "--seed", 1, "--log-interval", 50]
    flags += ["--no-epoch-checkpoints", "--best-checkpoint-metric", training.best_metric]
    flags += ["--save-interval-updates", training.save_interval_updates, "--keep-interval-updates", 1]
    return [str(flag) for flag in flags]
