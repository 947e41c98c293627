"""Whether all ranks were started alike: same text, same dictionary, same flags.

Ranks that differ would train on, each something else, or hang; so they compare before the first update.
"""

import hashlib
import os
from argparse import Namespace
from typing import Any, Dict, cast

import numpy as np
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from ..core.errors import UsageError
from ..data.text import Text
from .distributed import all_gather_object

#: groups of flags that must agree; elsewhere ranks may differ (a log file, a device)
GROUPS = ("common", "dataset", "optimization", "model", "task", "criterion", "optimizer", "lr_scheduler", "ema")
#: of these, what each machine may name as it likes: the text is compared itself
OWN = ("common.user_dir", "common.log_file", "common.tensorboard_logdir", "dataset.num_workers", "task.data")
#: places of a text that are compared
PROBES = 64


def check(trainer: Any) -> None:
    """Compares flags and dictionary.

    Raises:
        UsageError: where ranks differ, or where the launcher started ranks of which fairseq knows nothing.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    world = trainer.cfg.distributed_training.distributed_world_size
    if started > 1 and world == 1:
        raise UsageError(
            f"{started} processes were started (WORLD_SIZE), but each would train alone into the same --save-dir: "
            f"add --distributed-world-size {started}"
        )
    found = {}
    for group in GROUPS:
        for name, value in flags_of(trainer.cfg[group]).items():
            if f"{group}.{name}" not in OWN:
                found[f"flag {group}.{name}"] = str(value)
    dictionary = trainer.task.source_dictionary
    if isinstance(dictionary, Dictionary):
        found["dictionary"] = digest(" ".join(dictionary.symbols).encode())
    compare(found)


def flags_of(group: Any) -> Dict[str, Any]:
    """A group of flags as plain values: fairseq's older optimizers and schedulers have a namespace of all flags."""
    if isinstance(group, Namespace):
        return dict(vars(group))
    return cast(Dict[str, Any], OmegaConf.to_container(group, resolve=True, enum_to_str=True))


def check_texts(trainer: Any) -> None:
    """Compares the splits that are loaded; raises ``UsageError`` where they differ."""
    texts = {split: text for split, text in trainer.task.datasets.items() if isinstance(text, Text)}
    compare({f"text ({split})": fingerprint(text) for split, text in texts.items()})


def compare(own: Dict[str, str]) -> None:
    """Compares ``own`` facts, by name, with those of all ranks."""
    everyones = all_gather_object(own)
    first = everyones[0]
    for rank, other in enumerate(everyones):
        for name in sorted(first.keys() | other.keys()):
            here, there = first.get(name, "nothing"), other.get(name, "nothing")
            if here != there:
                raise UsageError(
                    f"rank {rank} was started with another {name} than rank 0 ({there}, not {here}): "
                    "give all ranks the same data and flags"
                )


def fingerprint(text: Text) -> str:
    """Tells texts apart by their lines' lengths and by some of their tokens; costs little even for a long one."""
    starts = np.linspace(0, max(0, text.total - PROBES), PROBES).astype(int)
    samples = [text.span(start, min(start + PROBES, text.total)).numpy().tobytes() for start in starts]
    return f"{text.total} tokens, {digest(text.ends.tobytes() + b''.join(samples))}"


def digest(content: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.sha256(content).hexdigest()[:12]
