"""Values that the fuzz draws for every flag of the model, of the task and of fairseq around them.

Each flag has a list of values; ``None`` leaves the flag out, ``True`` gives it without a value. Values that a user
could type by mistake are in the lists too. ``test_fuzz_flags.py`` holds the table against what is registered, so that a
new flag cannot be forgotten.
"""

import random
from typing import Any, Dict, List, Mapping, Sequence

#: of the model: nothing is left out too often, sizes stay tiny
MODEL: Dict[str, Sequence[Any]] = {
    "memory-type": ["lookahead", "lookahead", "recurrence", "compressive", "continuous", "none"],
    "position-encoding": [None, None, None, "disentangled", "disentangled-v2", "transformer-xl", "shaw", "absolute"],
    "look-ahead": [None, None, None, "full", "none", "incremental"],
    "detach-memory": [None, None, None, None, True],
    "mem-len": [12, 8, 1, 3, 0, 40, -1],
    "clamp-len": [None, None, None, 4, 1, 100, 0],
    "same-length": [None, None, None, True],
    "decoder-layers": [2, 1, 3, 2, 2, 0],
    "decoder-embed-dim": [16, 16, 8, 12, 15],
    "decoder-ffn-embed-dim": [32, 16, 1],
    "decoder-attention-heads": [2, 2, 1, 4, 3],
    "decoder-head-dim": [None, None, None, 4, 5, 0],
    "decoder-normalize-before": [None, True],
    "dropout": [None, None, 0, 0.3, 1.0],
    "attention-dropout": [None, 0.1, 0, 0.5, -0.1],
    "checkpoint-activations": [None, None, True],
    "no-fused-kernels": [None, None, True],
    "compile": [*[None] * 30, True],  # a minute or more of compilation each
    "max-distance": [None, None, None, None, None, 6, 1, 0],
    "adaptive-input": [None, None, None, None, None, True],
    "adaptive-input-cutoff": [None, None, None, None, None, None, None, "20,40"],
    "adaptive-input-factor": [None, None, None, None, None, None, None, 2],
    "adaptive-softmax-cutoff": [None, None, None, None, "20,40", "5", "20,10", "100000", "x"],
    "adaptive-softmax-factor": [None, None, None, None, None, None, None, 2, 0.5],
    "adaptive-softmax-dropout": [None, None, None, None, None, None, 0.1],
    "tie-adaptive-weights": [None, None, None, None, None, None, True],
    "tie-adaptive-proj": [None, None, None, None, None, None, None, True],
}

#: of one memory kind; drawn mostly with that kind
KIND: Dict[str, Dict[str, Sequence[Any]]] = {
    "compressive": {
        "compressed-mem-len": [None, None, 4, 1, 20, 0],
        "compression-rate": [None, 2, 3, 4, 1, 0],
        "compression": [None, "conv", "dilated-conv", "mean", "max", "most-used"],
        "reconstruction-weight": [None, None, 0, 0.5, -1, "nan"],
    },
    "continuous": {
        "long-term-basis": [None, 8, 4, 1, 0],
        "long-term-samples": [None, None, 8, 1, 0],
        "long-term-ridge": [None, None, 0.1, 1e-30, 0, -1],
        "long-term-contraction": [None, None, 0.5, 0.01, 1, 0],
        "long-term-sticky": [None, True],
        "long-term-kl": [None, None, 0, 1, -1],
        "long-term-sigma": [None, None, 0.1, 0, -1],
    },
}

#: of the task, in training; what generation alone uses has its own tests
TASK: Dict[str, Sequence[Any]] = {
    "tokens-per-sample": [16, 8, 1, 5, 40, 0, -3],
    "random-offset": [None, None, True],
    "varlen": [None, None, True],
    "memory-reset": [None, None, None, "document", "never"],
    "document-separator": [None, None, None, None, None, "e", "nonesuch"],
    "no-save-memory": [None, None, None, True],
    "finetune-memory": [None, None, None, None, None, True],
    "csv-log": [None, None, None, "LOG"],
}

#: of the task, in evaluation
EVALUATION: Dict[str, Sequence[Any]] = {
    "tokens-per-sample": [16, 16, 8, 1, 5, 40, 0],
    "batch-size": [None, 1, 2, 3, 7, 500, 0, -1],
    "context-window": [None, None, 0, 3, 7, 16, -1],
    "stream-warmup": [None, None, 0, 5, 30, -1],
    "sample-break-mode": [None, None, None, None, "eos", "none"],
    "memory-reset": [None, None, None, "document"],
    "num-shards": [None, None, None, 2],
    "softmax-batch": [None, None, 5, 100],
    "max-tokens": [None, None, None, 64, 1],
}

OPTIMIZERS = ["adam", "adam", "adam", "nag", "sgd", "adagrad", "adadelta", "adafactor", "adamax"]
SCHEDULERS = [
    *(None, None, "fixed", "cosine", "inverse_sqrt", "polynomial_decay", "reduce_lr_on_plateau", "triangular"),
    *("tri_stage", "pass_through", "manual"),
]

#: of fairseq, in training
FAIRSEQ: Dict[str, Sequence[Any]] = {
    "batch-size": [4, 4, 2, 1, 3, 60, 400, 0, -2],
    "optimizer": OPTIMIZERS,
    "lr": [0.01, 0.01, 0.1, 1e-5, 0],
    "lr-scheduler": SCHEDULERS,
    "clip-norm": [None, 0.25, 0, 1e-9],
    "update-freq": [None, None, None, 2, 3],
    "max-update": [6, 6, 3, 12, 40, 1],
    "max-epoch": [None, None, None, None, 1, 2],
    "seed": [None, 3, 1],
    "num-workers": [0, 0, 0, 1],
    "log-interval": [1, 1, 3, 0, 100],
    "log-format": ["simple", "json", "none", "tqdm", None],
    "validate-interval-updates": [None, None, 2, 5],
    "validate-interval": [None, None, 2],
    "save-interval-updates": [None, None, 2, 5],
    "keep-interval-updates": [None, 1],
    "no-epoch-checkpoints": [True, True, None],
    "no-save": [None, None, None, None, None, True],
    "no-save-optimizer-state": [None, None, None, None, True],
    "disable-validation": [None, None, True],
    "batch-size-valid": [None, None, 1, 3, 7],
    "valid-subset": [None, None, None, "train", "valid,train", "nonesuch"],
    "train-subset": [None, None, None, None, "valid"],
    "criterion": ["memory_cross_entropy", "memory_cross_entropy", "memory_cross_entropy", None, "adaptive_loss"],
    "sentence-avg": [None, None, None, True],
    "best-checkpoint-metric": [None, "loss", "bpc", "bits_per_token", "ppl", "nonesuch"],
    "maximize-best-checkpoint-metric": [None, None, None, True],
    "patience": [None, None, None, 1],
    "weight-decay": [None, None, 0.01],
    "memory-efficient-fp16": [None, None, None, None, None, True],
    "fp16-no-flatten-grads": [None, None, None, None, None, None, True],
    "amp": [None, None, None, None, None, None, True],
    "store-ema": [None, None, None, None, None, None, True],
    "curriculum": [None, None, None, None, None, 2],
    "required-batch-size-multiple": [None, None, None, 1],
    "skip-remainder-batch": [None, None, None, None, True],
    "stop-min-lr": [None, None, None, 0.5],
    "max-tokens": [None, None, None, None, 64],
    "fixed-validation-seed": [None, None, None, 7],
    "reset-dataloader": [None, None, None, None, True],
}

#: flags without which a schedule is none
NEEDED: Dict[Any, Dict[str, Any]] = {
    "polynomial_decay": {"total-num-update": 40},
    "triangular": {"max-lr": 0.02, "lr-period-updates": 4},
    "tri_stage": {"phase-ratio": "[0.2,0.4,0.4]"},
}


def as_words(chosen: Mapping[str, Any]) -> List[str]:
    """Flags as the command line has them."""
    words = []
    for name, value in chosen.items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return words


def draw(table: Mapping[str, Sequence[Any]], rng: random.Random, odd: float) -> Dict[str, Any]:
    """One value per flag. With probability 1 - ``odd`` a flag takes its first value, the sane one."""
    return {name: values[0] if rng.random() > odd else rng.choice(values) for name, values in table.items()}


def draw_training(rng: random.Random) -> Dict[str, Any]:
    """Flags of a training."""
    odd = rng.choice([0.02, 0.05, 0.1, 0.3])
    chosen = {**draw(MODEL, rng, odd), **draw(TASK, rng, odd), **draw(FAIRSEQ, rng, odd)}
    chosen.update(NEEDED.get(chosen["lr-scheduler"], {}))
    chosen["memory-type"] = rng.choice(MODEL["memory-type"])  # no kind is rarer for being no default
    for kind, flags in KIND.items():
        if chosen["memory-type"] == kind or rng.random() < 0.02:
            chosen.update(draw(flags, rng, max(0.2, odd)))
    return chosen


def draw_evaluation(rng: random.Random, trained: Mapping[str, Any]) -> Dict[str, Any]:
    """Flags of an evaluation of what was ``trained``."""
    chosen = draw(EVALUATION, rng, 0.4)
    if rng.random() < 0.5:
        chosen["tokens-per-sample"] = trained["tokens-per-sample"]
    if chosen["num-shards"] is not None:
        chosen["shard-id"] = rng.choice([0, 1])
    return chosen
