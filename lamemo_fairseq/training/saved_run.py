"""Checks that a training can go on from a checkpoint: its form, and the flags that must be as they were.

Fairseq finds out while it loads, in its own words or in none: a missing part is a ``KeyError``, another optimizer an
assertion, another width "please ensure that the architectures match".
"""

import inspect
import os
import zipfile
from argparse import Namespace
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set

import torch

from ..core.errors import UsageError

#: flags of ``common`` that decide which optimizer holds the weights, so that its state is of another form
PRECISION = ("fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16", "amp", "fp16_no_flatten_grads")
#: what schedules of the learning rate must find in a checkpoint, where it is not the best score alone
NEEDS: Dict[str, Set[str]] = {"fixed": set(), "manual": set(), "reduce_lr_on_plateau": {"best", "last_epoch"}}
LATEST = "checkpoint_last.pt"
#: what fairseq reads of the last entry of ``optimizer_history``
HISTORY = ("criterion_name", "optimizer_name", "lr_scheduler_state", "num_updates")


class Start(NamedTuple):
    """Where a training begins.

    Attributes:
        path: the checkpoint; None: from scratch.
        whole: whether the optimizer goes on too; False: only the weights are taken.
        schedule: whether the schedule of the learning rate goes on.
    """

    path: Optional[str]
    whole: bool
    schedule: bool


def start_of(cfg: Any, suffix: str) -> Start:
    """What fairseq will load, by its group ``checkpoint`` of flags.

    Args:
        cfg: the flags.
        suffix: of checkpoints of this rank, where fairseq shards them.

    Raises:
        UsageError: a checkpoint that was named is not there.
    """
    whole = not cfg.reset_optimizer
    schedule = whole and not cfg.reset_lr_scheduler
    if cfg.restore_file != LATEST:
        if cfg.finetune_from_model is not None:
            raise UsageError(
                f"--finetune-from-model {cfg.finetune_from_model} and --restore-file {cfg.restore_file} both say where "
                "to begin: leave one out"
            )
        path = cfg.restore_file.replace(".pt", f"{suffix}.pt")
        if not os.path.lexists(path) and "://" not in path:
            raise UsageError(f"--restore-file {path} does not exist: name a checkpoint, or leave it out to begin anew")
        return Start(path, whole, schedule)
    latest = os.path.join(cfg.save_dir, LATEST.replace(".pt", f"{suffix}.pt"))
    if os.path.lexists(latest):
        return Start(latest, whole, schedule)
    if cfg.finetune_from_model is None:
        return Start(None, whole, schedule)
    if not os.path.lexists(cfg.finetune_from_model) and "://" not in cfg.finetune_from_model:
        raise UsageError(f"--finetune-from-model {cfg.finetune_from_model} does not exist: name a checkpoint")
    return Start(cfg.finetune_from_model, False, False)


def other_flags(what: str, error: Exception) -> UsageError:
    """What is said where flags of a checkpoint are of another type, or have a value that is none of theirs."""
    return UsageError(f"{what} has flags of another form in its `cfg`: {str(error).splitlines()[0]}; use another one")


def peek(path: str) -> Any:
    """A checkpoint's content, read as little as torch allows; None where torch's safe loader refuses it.

    Nothing is said of why: the file has not been checked, and in a damaged one anything may be wrong.
    """
    lazily = zipfile.is_zipfile(path) and "mmap" in inspect.signature(torch.load).parameters
    options: Dict[str, Any] = {"mmap": True} if lazily else {}
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except Exception:
        return None


def check_form(state: Any, path: str, training: bool = False) -> None:
    """Raises ``UsageError`` where a checkpoint lacks a part that its reader needs.

    Args:
        state: what was loaded.
        path: of the file.
        training: whether a training is to go on from it, with its optimizer.
    """
    if not isinstance(state, Mapping):
        raise wrong_form(path, f"holds {type(state).__name__} instead of a dictionary")
    model = state.get("model")
    if not isinstance(model, Mapping) or not model or not all(torch.is_tensor(value) for value in model.values()):
        raise wrong_form(path, "has no weights under `model`" if model is None else "has no weights in its `model`")
    if state.get("args") is None:
        cfg = state.get("cfg")
        if cfg is None:
            raise wrong_form(path, "has no flags under `cfg`")
        groups = ("task", "model") if isinstance(cfg, Mapping) else ()
        if not groups or not all(isinstance(cfg.get(name), (Mapping, Namespace)) for name in groups):
            raise wrong_form(path, "has no flags of task and model in its `cfg`")
        if not all(name_of(name, cfg[name]) for name in groups):
            raise wrong_form(path, "names no task and model in its `cfg`")
    if not isinstance(state.get("task_state", {}), Mapping):
        raise wrong_form(path, "has no dictionary in its `task_state`")
    if training:
        history, extra = state.get("optimizer_history"), state.get("extra_state")
        if not isinstance(history, list) or not history or not isinstance(history[-1], Mapping):
            raise wrong_form(path, "has no `optimizer_history`", way_out=FINETUNE)
        lacking = [name for name in HISTORY if name not in history[-1]]
        if lacking:
            raise wrong_form(path, f"has no `{lacking[0]}` in its `optimizer_history`", way_out=FINETUNE)
        if not isinstance(extra, Mapping) or not isinstance(extra.get("train_iterator"), Mapping):
            raise wrong_form(path, "has no `train_iterator` in its `extra_state`", way_out=FINETUNE)
        if not isinstance(extra["train_iterator"].get("streams", {}), Mapping):
            raise wrong_form(path, "has no dictionary in its `streams`", way_out=FINETUNE)
        memory = extra["train_iterator"].get("streams", {}).get("memory")
        if memory is not None and not (isinstance(memory, Mapping) and isinstance(memory.get("made_with"), Mapping)):
            raise wrong_form(path, "has no memory of the form that is written in its `streams`", way_out=FINETUNE)
        if not isinstance(state.get("last_optimizer_state"), Mapping):
            raise wrong_form(path, "has no `last_optimizer_state`", way_out=FINETUNE)


FINETUNE = "begin anew from its weights with --finetune-from-model"


def wrong_form(path: str, what: str, way_out: str = "use another one") -> UsageError:
    """The error for a checkpoint that lacks something."""
    return UsageError(f"{path} is no whole checkpoint of fairseq: it {what}; {way_out}")


def check_flags(state: Mapping[str, Any], path: str, cfg: Any, start: Start, shapes: Mapping[str, Any]) -> None:
    """Raises ``UsageError`` where the flags are not those that a checkpoint needs to go on.

    Args:
        state: the checkpoint's content.
        path: of its file.
        cfg: the run's flags, in groups.
        start: what is to be loaded of it.
        shapes: of the run's model: parameters by name.
    """
    saved = state.get("cfg")
    if not isinstance(saved, Mapping):
        return  # of an older fairseq, which kept other flags
    kept = {name: tuple(value.shape) for name, value in state["model"].items()}
    own = {name: tuple(value.shape) for name, value in shapes.items()}
    if kept != own:
        changed = differences(saved.get("model"), cfg["model"])
        if changed:
            raise UsageError(
                f"{path} was trained with another model: {', '.join(changed)}; give the same flags, or "
                "another --save-dir"
            )
    if flags_of(cfg["ema"]).get("store_ema") and "ema" not in state.get("extra_state", {}):
        raise UsageError(
            f"--store-ema True (was False): {path} holds no average of weights, and fairseq cannot begin one there: "
            "leave --store-ema out"
        )
    if not start.whole:
        return
    changed = [
        *renamed("optimizer", saved, cfg),
        *renamed("criterion", saved, cfg),
        *(renamed("lr_scheduler", saved, cfg) if start.schedule and not schedules_fit(state, cfg) else []),
    ]
    common = flags_of(saved.get("common")), flags_of(cfg["common"])
    changed += [change(name, *values) for name in PRECISION if differ(*(values := [one.get(name) for one in common]))]
    if changed:
        raise UsageError(
            f"{path} was trained with other flags: {', '.join(changed)}; give the same, or begin anew from its weights "
            "with --finetune-from-model in another --save-dir (--reset-optimizer to go on in this one)"
        )


def flags_of(group: Any) -> Dict[str, Any]:
    """A group of flags as a dictionary; older optimizers and schedulers have a namespace."""
    if group is None:
        return {}
    return dict(vars(group)) if isinstance(group, Namespace) else dict(group)


def name_of(kind: str, group: Any) -> Optional[str]:
    """What was chosen for ``kind``, e.g. ``adam``."""
    flags = flags_of(group)
    found = flags.get("_name") or flags.get("arch" if kind == "model" else kind)
    return None if found is None else str(found)


def renamed(kind: str, saved: Mapping[str, Any], cfg: Any) -> List[str]:
    """What is said of an optimizer, criterion or schedule that is another one; empty where it is the same."""
    was, now = name_of(kind, saved.get(kind)), name_of(kind, cfg[kind])
    return [] if was is None or was == now else [change(kind, was, now)]


def schedules_fit(state: Mapping[str, Any], cfg: Any) -> bool:
    """Whether the schedule of the learning rate finds what it needs in the saved one's state."""
    needed = NEEDS.get(str(name_of("lr_scheduler", cfg["lr_scheduler"])), {"best"})
    return needed <= set(state["optimizer_history"][-1].get("lr_scheduler_state", {}))


def differences(saved: Any, now: Any) -> List[str]:
    """Flags of a group that are not as they were."""
    before, after = flags_of(saved), flags_of(now)
    return [
        change(name, before[name], after[name])
        for name in after
        if name in before and str(before[name]) != str(after[name])  # None is a value: of a size that follows others
    ]


def differ(was: Any, now: Any) -> bool:
    """Whether two values of a flag differ; a flag that one side lacks does not."""
    return was is not None and str(was) != str(now)


def change(name: str, was: Any, now: Any) -> str:
    """A flag that is not as it was, as the command line spells it."""
    return f"--{name.replace('_', '-')} {now} (was {was})"
