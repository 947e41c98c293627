"""Patches of fairseq, applied on import.

All wrapping happens here, once, and each wrapper ends in fairseq's own function.
There is no other way in: a task is not asked where these are called. The trainer and ``fairseq-train`` look them up in
their module at every call.

==============================  ==================================================================================
of ``Trainer``                  why
==============================  ==================================================================================
``zero_grad``                   gradients are cleared where an update begins, overflows, lacks memory or is tried
                                again: the memory that it has read is rolled back with them
``_catalog_shared_params``      of its module: finds None in the place of each bias that is left out, and reports them
                                as one parameter that is shared, in a screenful of lines
==============================  ==================================================================================

==============================  ==================================================================================
of ``options``, ``progress_bar`` why
==============================  ==================================================================================
``parse_args_and_arch``         argparse shows two hundred lines of usage for a flag that is misspelt, and all of
                                fairseq's architectures for an ``--arch`` that is
``progress_bar``                opens ``--log-file`` anew for each epoch, so that epoch n is written n times
==============================  ==================================================================================

==============================  ==================================================================================
of the optimizers of 16 bits    why
==============================  ==================================================================================
``state_dict``                  float32 weights and the place of the loss scale are left out, so that a resumed run
``load_state_dict``             would be another one
==============================  ==================================================================================

==============================  ==================================================================================
of ``checkpoint_utils``         why
==============================  ==================================================================================
``save_checkpoint``             the only place that all ranks pass before a save, with or without validation: the
                                memory of all ranks goes to the first, which alone writes
``load_checkpoint``             all ranks pass it before the first update: were they started alike, and is there
                                anything left to train?
``load_checkpoint_to_cpu``      torch believes damaged files: they are checked first; what ``lamemo export`` wrote is
                                a checkpoint too
``torch_persistent_save``       after a failed write fairseq goes on writing in the middle of the same file, and
                                takes that for the checkpoint
``PathManager.copy``            overwrites ``checkpoint_last.pt`` in place: a kill or a full disk in the middle
                                would leave neither the old nor the new one
``verify_checkpoint_directory`` a traceback where one line will do
``load_model_ensemble_and_task`` only here is a model's file known: errors of generation and evaluation name it; a
                                directory that ``lamemo export`` wrote has one
==============================  ==================================================================================
"""

import collections
import functools
import logging
import os
import typing
from typing import Any

import torch
from fairseq import checkpoint_utils, options
from fairseq import trainer as trainer_module
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar as bars
from fairseq.optim import AMPOptimizer, FP16Optimizer, MemoryEfficientFP16Optimizer
from fairseq.trainer import Trainer
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.errors import OmegaConfBaseException
from omegaconf.nodes import AnyNode

from ..core.errors import UsageError
from ..training import checkpoint_io as files
from ..training import half_precision
from ..training import rank_checks as agreement
from ..training.distributed import first_for_all
from ..training.exported import is_exported, load_exported, weights_file
from ..training.resume import StreamIterator
from ..training.saved_run import check_form, other_flags
from ..training.train_step import check_room
from .error_reporting import refuse_flag
from .fairseq_logs import keep_newest_file
from .start_checks import (
    carry_finetuned,
    check_beginning,
    check_metric,
    forget_earlier_runs,
    name_exported_weights,
    stop_if_done,
)
from .task import MemoryLanguageModelingTask

logger = logging.getLogger(__name__)


class WholeFiles(PathManager):
    """Fairseq's file manager, whose copies on local disks appear whole."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copies a file; see :func:`files.copy`."""
        if PathManager.path_requires_pathmanager(dst_path):
            return PathManager.copy(src_path, dst_path, overwrite=overwrite)
        return files.copy(src_path, dst_path)


def install() -> None:
    """Wraps fairseq's functions, and lets torch read what fairseq sends from rank to rank."""
    patch_options()
    patch_trainer()
    patch_half_precision()
    patch_writing()
    patch_reading()
    allow_broadcasts()
    patch_logging()


def patch_options() -> None:
    """A mistake in flags is one line."""
    parse = options.parse_args_and_arch

    @functools.wraps(parse)
    def parse_in_one_line(parser: Any, *arguments: Any, **named: Any) -> Any:
        parser.error = refuse_flag
        return parse(parser, *arguments, **named)

    options.parse_args_and_arch = parse_in_one_line


def patch_logging() -> None:
    """A log file holds each line once."""
    make = bars.progress_bar

    @functools.wraps(make)
    def write_once(*arguments: Any, **named: Any) -> Any:
        if named.get("log_file") is not None:
            keep_newest_file(bars.logger, 0)
        return make(*arguments, **named)

    bars.progress_bar = write_once


def patch_trainer() -> None:
    """An update begins where gradients are cleared; what is not there is no shared parameter."""
    zero_grad, catalog = Trainer.zero_grad, trainer_module._catalog_shared_params

    @functools.wraps(zero_grad)
    def begin_update(trainer: Any) -> None:
        zero_grad(trainer)
        if isinstance(trainer.task, MemoryLanguageModelingTask):
            trainer.task.training_memory.begin()

    @functools.wraps(catalog)
    def shared_parameters(module: Any, *below: Any) -> Any:
        found = catalog(module, *below)  # None inside of a module
        return found and [names for names in found if trainer_module._get_module_by_path(module, names[0]) is not None]

    Trainer.zero_grad = begin_update
    trainer_module._catalog_shared_params = shared_parameters


def patch_writing() -> None:
    """Checkpoints hold the memory of all ranks, and appear whole."""
    save_checkpoint = checkpoint_utils.save_checkpoint
    persistent_save = checkpoint_utils.torch_persistent_save
    verify_directory = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(save_checkpoint)
    def save_with_memory(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        if isinstance(epoch_itr, StreamIterator) and not cfg.no_save:
            epoch_itr.gather(trainer.task.training_memory)
        return save_checkpoint(cfg, trainer, epoch_itr, val_loss)

    @functools.wraps(persistent_save)
    def save_whole(obj: Any, filename: str, async_write: bool = False) -> None:
        if os.path.basename(filename) == "crash.pt" and obj["cfg"]["checkpoint"]["no_save"]:
            return  # the trainer saves what it crashed with, even with --no-save
        obj = files.without_namespaces(obj)
        if async_write or not PathManager.supports_rename(filename):
            persistent_save(obj, filename, async_write)
        else:
            files.save(obj, filename)

    @functools.wraps(verify_directory)
    def verify_in_one_line(save_dir: str) -> None:
        try:
            verify_directory(save_dir)
        except OSError as error:
            raise UsageError(f"--save-dir {save_dir} cannot be written to ({error.strerror}): name another") from error

    checkpoint_utils.save_checkpoint = save_with_memory
    checkpoint_utils.torch_persistent_save = save_whole
    checkpoint_utils.verify_checkpoint_directory = verify_in_one_line
    checkpoint_utils.PathManager = WholeFiles


def patch_reading() -> None:
    """Checkpoints are checked before they are believed, and training begins in agreement."""
    load_checkpoint = checkpoint_utils.load_checkpoint
    load_to_cpu = checkpoint_utils.load_checkpoint_to_cpu
    load_ensemble = checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load_checkpoint)
    def load_in_agreement(cfg: Any, trainer: Any, **passed: Any) -> Any:
        files.check_places(cfg.save_dir, cfg.restore_file)
        name_exported_weights(cfg)
        agreement.check(trainer)
        first_for_all(lambda: check_beginning(cfg, trainer))
        check_metric(trainer)
        forget_earlier_runs()
        loaded = load_checkpoint(cfg, trainer, **passed)
        agreement.check_texts(trainer)  # the training text is loaded with the checkpoint
        _, epoch_itr = loaded
        if isinstance(epoch_itr, StreamIterator):
            check_room(trainer.get_model().decoder.memory, epoch_itr.streams, next(trainer.get_model().parameters()))
            carry_finetuned(cfg, trainer, epoch_itr)
            if epoch_itr.resumption is not None:
                epoch_itr.resumption.finish(trainer.task.training_memory, trainer.get_model(), trainer.optimizer)
            trainer.task.begin_training(cfg.save_dir, trainer.get_num_updates())
            stop_if_done(trainer)
        return loaded

    @functools.wraps(load_to_cpu)
    def load_whole(path: str, *arguments: Any, **named: Any) -> Any:
        if is_exported(path):
            return load_exported(path, lambda checkpoint: load_to_cpu(checkpoint, *arguments, **named))
        local = PathManager.get_local_path(path)
        if not PathManager.path_requires_pathmanager(path):
            files.check(local)
        state = load_to_cpu(path, *arguments, **named)
        check_form(state, path)
        return state

    @functools.wraps(load_ensemble)
    def load_with_names(filenames: Any, *arguments: Any, **named: Any) -> Any:
        filenames = [weights_file(path) for path in filenames]
        for path in filenames:
            files.check_is_file(path)
        try:
            models, cfg, task = load_ensemble(filenames, *arguments, **named)
        except OmegaConfBaseException as error:
            raise other_flags(f"{':'.join(filenames)} (or --model-overrides)", error) from error
        for model, path in zip(models, filenames):
            model.checkpoint_path = path
        return models, cfg, task

    checkpoint_utils.load_checkpoint = load_in_agreement
    checkpoint_utils.load_checkpoint_to_cpu = load_whole
    checkpoint_utils.load_model_ensemble_and_task = load_with_names


def patch_half_precision() -> None:
    """Completes the state of the optimizers of 16 bits."""
    for optimizer_class in (FP16Optimizer, MemoryEfficientFP16Optimizer, AMPOptimizer):
        optimizer_class.state_dict = half_precision.complete(optimizer_class.state_dict)
        optimizer_class.load_state_dict = half_precision.restoring(optimizer_class.load_state_dict)


def allow_broadcasts() -> None:
    """Lets torch >= 2.6 read the checkpoint that rank 0 sends to the others.

    Fairseq packs it with its configuration as an omegaconf container, which torch refuses by default. Files hold
    none: they stay loadable with ``weights_only=True`` elsewhere.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):  # came with 2.4; until 2.5 nothing was refused
        return
    torch.serialization.add_safe_globals(
        [
            *(DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata, distributed_utils._TensorPlaceholder),
            *(typing.Any, collections.defaultdict, dict, list, int),
        ]
    )
