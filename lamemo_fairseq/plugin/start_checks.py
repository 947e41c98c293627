"""Checks between a training's flags and its first update, so that nothing is found out an epoch later."""

import logging
import os
import sys
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import open_dict

from ..core.errors import UsageError
from ..data.dictionary import check_same
from ..training import checkpoint_io as files
from ..training import saved_run
from ..training.exported import is_exported, weights_file
from ..training.finetune_memory import carry_memory
from ..training.resume import StreamIterator
from ..training.run_lock import lock_save_dir
from . import fairseq_logs
from .task import MemoryLanguageModelingTask

logger = logging.getLogger(__name__)


def check_beginning(cfg: Any, trainer: Any) -> None:
    """Locks the directory, and looks whether training can go on from what is there, before fairseq tries."""
    check_resumable(cfg)
    if not cfg.no_save:
        trainer.save_dir_lock = lock_save_dir(cfg.save_dir)  # it is released where the trainer ends
    start = saved_run.start_of(cfg, trainer.checkpoint_suffix)
    if start.path is None or is_exported(start.path) or not os.path.isfile(start.path):
        return
    state = saved_run.peek(start.path)
    if state is None:
        return  # fairseq's own loader says what is wrong
    try:
        check_saved(state, start.path, start, trainer)
    except UsageError:
        files.check(start.path)  # damage is named as such; what is whole is read through once, by its loader
        raise


def check_saved(state: Any, path: str, start: saved_run.Start, trainer: Any) -> None:
    """Raises ``UsageError`` where a checkpoint's ``state`` is not one that this training can begin with."""
    saved_run.check_form(state, path, training=start.whole)
    saved_run.check_flags(state, path, trainer.cfg, start, trainer.get_model().state_dict())
    dictionary = state.get("task_state", {}).get("dictionary")
    if dictionary is not None and isinstance(trainer.task, MemoryLanguageModelingTask):
        check_same(dictionary, trainer.task.dictionary, str(trainer.task.cfg.data))


def carry_finetuned(cfg: Any, trainer: Any, iterator: StreamIterator) -> None:
    """Puts the memory of the checkpoint before the text, where that is asked for and a finetuning begins."""
    if not trainer.task.cfg.finetune_memory:
        return
    if cfg.finetune_from_model is None:
        raise UsageError("--finetune-memory has no effect without --finetune-from-model: name a checkpoint there")
    start = saved_run.start_of(cfg, trainer.checkpoint_suffix)
    # Where it is another path, the finetuning itself goes on from its own checkpoint.
    if start.path is not None and start.path == cfg.finetune_from_model:
        state = None if is_exported(start.path) else saved_run.peek(start.path)
        carry_memory(state or {}, start.path, iterator, trainer.task.training_memory, trainer.get_model())


def name_exported_weights(cfg: Any) -> None:
    """``--finetune-from-model`` may name an exported directory, whose weights it then names.

    Fairseq takes any directory for a file that is not there, and would train from scratch.
    """
    if cfg.finetune_from_model is not None:
        with open_dict(cfg):
            cfg.finetune_from_model = weights_file(cfg.finetune_from_model)
        files.check_is_file(cfg.finetune_from_model)


def check_resumable(cfg: Any) -> None:
    """Raises ``UsageError`` where a training is to go on from an exported model, which has no optimizer."""
    if is_exported(cfg.restore_file):
        raise UsageError(
            f"--restore-file {cfg.restore_file} is an exported model, without optimizer and memory: begin a training "
            "from it with --finetune-from-model"
        )


def check_metric(trainer: Any) -> None:
    """Finds a number that validation does not log before the first epoch is over, not after it."""
    if not trainer.cfg.dataset.disable_validation:
        characters = getattr(trainer.task, "characters", None)  # None: another task, which logs its own
        if characters is not None:
            check_best_metric(trainer.cfg.checkpoint.best_checkpoint_metric, characters)


def check_best_metric(name: str, characters: bool) -> None:
    """Raises ``UsageError`` where checkpoints are compared by a number that validation will not log."""
    if name == "bpc" and not characters:
        raise UsageError(
            "--best-checkpoint-metric bpc is bits per character, but the data's tokens are words or pieces of words: "
            "choose --best-checkpoint-metric bits_per_token, which ranks checkpoints alike"
        )


def forget_earlier_runs() -> None:
    """Ends the logs and removes the best score of a run before in this process, as in ``--multirun`` of hydra.

    Fairseq keeps the score on its own functions; a run that is resumed gets its own back from the checkpoint.
    """
    fairseq_logs.end_earlier_logs()
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    stopping = getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", None)
    if stopping is not None:
        vars(stopping).pop("best", None)


def stop_if_done(trainer: Any) -> None:
    """Leaves no epoch to a run that was killed after its last update.

    Fairseq looks at ``--max-update`` after an update, not before, and would make one more.
    """
    optimization = trainer.cfg.optimization
    if 0 < optimization.max_update <= trainer.get_num_updates():
        logger.info("all of --max-update %d are made: nothing is left to train", optimization.max_update)
        with open_dict(trainer.cfg):
            optimization.max_epoch = -1  # 0 would mean no limit
