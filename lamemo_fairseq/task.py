"""Fairseq's hooks for ordered streams. No tensor mathematics here."""

import logging
import os
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import torch
from fairseq import utils
from fairseq.data import Dictionary, data_utils, iterators
from fairseq.logging import metrics
from fairseq.optim import AMPOptimizer
from fairseq.tasks import FairseqTask, register_task
from torch import Tensor

from . import gather, monitor
from .config import MemoryLanguageModelingConfig
from .criterion import check_criterion
from .data import Layout, Segments, Text, rotation, rows_for
from .errors import UsageError
from .resume import StreamIterator
from .segments import varied
from .shortage import survive
from .streams import Stream

logger = logging.getLogger(__name__)


@register_task("memory_language_modeling", dataclass=MemoryLanguageModelingConfig)
class MemoryLanguageModelingTask(FairseqTask):
    """Language modeling over text that is read in order, so that a model can remember it."""

    cfg: MemoryLanguageModelingConfig

    def __init__(self, cfg: MemoryLanguageModelingConfig, dictionary: Dictionary, **unused: Any) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.streams: Dict[str, Stream] = {}
        self.validating = "valid"  # the subset that is being validated
        self.csv: Optional[monitor.CsvLog] = None
        self.wanted_losses: Dict[str, Tuple[str, ...]] = {}  # by memory kind

    @classmethod
    def setup_task(cls, cfg: MemoryLanguageModelingConfig, **kwargs: Any) -> "MemoryLanguageModelingTask":
        """Loads the dictionary of the (first) data directory."""
        MemoryLanguageModelingConfig.check(cfg)
        return cls(cfg, load_dictionary(cfg.data), **kwargs)

    @property
    def source_dictionary(self) -> Dictionary:
        """The symbols."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The symbols."""
        return self.dictionary

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Builds the model; which criterion it needs is asked later."""
        model = super().build_model(cfg, from_checkpoint)
        if hasattr(cfg, "memory_type"):
            self.wanted_losses[str(cfg.memory_type)] = model.decoder.memory.trained_apart
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Builds the criterion, unless it leaves out what the model's memory needs."""
        for memory_type, losses in self.wanted_losses.items():
            check_criterion(cfg._name, memory_type, losses)
        return super().build_criterion(cfg, from_checkpoint)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **unused: Any) -> None:
        """Loads a split as one text. Of several data directories, each epoch takes the next."""
        paths = utils.split_paths(self.cfg.data)
        path = os.path.join(paths[(epoch - 1) % len(paths)], split)
        if not os.path.isfile(f"{path}.bin"):
            raise UsageError(
                f"split {split} is not in {os.path.dirname(path)}: fairseq-preprocess makes it from "
                f"--{split.rstrip('0123456789')}pref"
            )
        if os.path.getsize(f"{path}.bin") == 0:
            raise UsageError(f"split {split} in {os.path.dirname(path)} is empty: preprocess some text")
        lines = data_utils.load_indexed_dataset(path, self.dictionary, self.cfg.dataset_impl, combine=combine)
        text = Text(lines, split)
        self.datasets[split] = text

    def get_batch_iterator(  # type: ignore[override]
        self,
        dataset: Text,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        **unused: Any,
    ) -> StreamIterator:
        """Batches of ``max_sentences`` rows, segment after segment, never shuffled.

        Rank ``shard_id`` reads its own rows; all ranks together read every token once.
        """
        tokens = self.cfg.tokens_per_sample
        rows = rows_for(max_sentences, max_tokens, tokens)
        rotates = self.cfg.random_offset and dataset.name == "train"
        offset = rotation(dataset.total, seed, epoch) if rotates else 0
        layout = Layout.even(dataset.total, rows * num_shards, tokens, offset=offset)
        if self.cfg.varlen and dataset.name == "train":
            layout = varied(dataset.total, rows * num_shards, tokens, seed, epoch, offset)
        return self.iterate(dataset, layout, rows, num_shards, shard_id, num_workers, epoch, data_buffer_size)

    def iterate(
        self,
        text: Text,
        layout: Layout,
        rows: int,
        num_shards: int,
        shard_id: int,
        num_workers: int,
        epoch: int,
        buffer_size: int,
    ) -> StreamIterator:
        """Fairseq's iterator over a layout."""
        segments = Segments(text, layout, self.dictionary.pad(), self.dictionary.eos())
        return StreamIterator(
            segments,
            rows,
            num_shards,
            shard_id,
            num_workers,
            epoch,
            buffer_size,
            self.stream(text.name),
            not self.cfg.no_save_memory,
        )

    def eval_lm_dataloader(
        self,
        dataset: Text,
        batch_size: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 1,
        data_buffer_size: int = 10,
        context_window: int = 0,
        **unused: Any,
    ) -> iterators.CountingIterator:
        """Batches for ``fairseq-eval-lm``, each with the memory that it continues."""
        rows = 1 if batch_size is None else batch_size
        # fairseq-eval-lm has taken the context window off tokens_per_sample already.
        layout = Layout.even(dataset.total, rows * num_shards, self.cfg.tokens_per_sample, context=context_window)
        batches = self.iterate(
            dataset, layout, rows, num_shards, shard_id, num_workers, 1, data_buffer_size
        ).next_epoch_itr(shuffle=False)
        stream = Stream(dataset.name)
        return iterators.CountingIterator((attach(batch, stream) for batch in batches), start=0, total=len(batches))

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Training begins, or its next epoch."""
        super().begin_epoch(epoch, model)
        if self.cfg.csv_log is not None and gather.rank() == 0:
            self.csv = monitor.CsvLog(self.cfg.csv_log)

    def train_step(
        self,
        sample: Dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **extra: Any,
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """One micro-batch. Its memory counts once :meth:`optimizer_step` says that the update was made."""
        if not ignore_grad:  # the trainer's dummy batch belongs to no stream
            stream = self.stream(sample["stream"])
            if not stream.kept and not stream.pending:
                monitor.check_room(model.decoder, sample["target"])
            if stream.resumption is not None:
                stream.resumption.finish(stream, model, optimizer)
                stream.resumption = None
            # The trainer clears all gradients before an update's first micro-batch, and after lack of memory.
            if not any(p.grad is not None for p in model.parameters()):
                stream.begin_update()
            sample = attach(sample, stream)
        step = partial(super().train_step, model=model, criterion=criterion, optimizer=optimizer, update_num=update_num)
        loss, sample_size, output = survive(partial(step, **extra), sample, optimizer, ignore_grad)
        return loss, sample_size, {**output, **monitor.observe(self.stream(sample["stream"]), loss.device)}

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """The update is made: what it read enters the memory."""
        scale = optimizer.scaler.get_scale() if isinstance(optimizer, AMPOptimizer) else 0.0
        super().optimizer_step(optimizer, model, update_num)
        # After an overflow most optimizers do not come here; this one does, lowers its scale and makes no step.
        if isinstance(optimizer, AMPOptimizer) and optimizer.scaler.get_scale() < scale:
            return
        for stream in self.streams.values():
            stream.commit()

    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Tuple[Tensor, int, Dict[str, Any]]:
        """One batch of a validation subset, which has a memory of its own."""
        if "segment" in sample["net_input"]:
            sample = attach(sample, self.stream(sample["stream"]))
        self.validating = sample["stream"]
        return super().valid_step(sample, model, criterion)

    def stream(self, name: str) -> Stream:
        """The stream set of a split."""
        if name not in self.streams:
            self.streams[name] = Stream(name)
        return self.streams[name]

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """Adds bits per character: the loss in base 2, under the name that characters go by."""
        super().reduce_metrics(logging_outputs, criterion)
        metrics.log_derived("bpc", bits_per_character)
        if any("readings" in output for output in logging_outputs):  # of training
            monitor.report(logging_outputs)
            stats = metrics.get_smoothed_values("train_inner")
            if self.csv is not None and stats["num_updates"] % self.cfg.log_interval == 0:
                self.csv.write("train", stats)

    def post_validate(self, model: Any, stats: Dict[str, Any], meters: Any) -> None:
        """Fairseq has validated a subset."""
        if self.csv is not None:
            self.csv.write(self.validating, stats)


def bits_per_character(meters: Any) -> float:
    """The logged loss per token, in base 2; without an auxiliary loss where one is kept apart."""
    meter = meters["nll_loss"] if "nll_loss" in meters else meters["loss"]
    return utils.item(torch.as_tensor(meter.avg))


def attach(batch: Dict[str, Any], stream: Stream) -> Dict[str, Any]:
    """The batch with the memory that it continues."""
    if not batch:
        return batch
    return {**batch, "net_input": {**batch["net_input"], "stream": stream}}


def load_dictionary(data: Optional[str]) -> Dictionary:
    """The dictionary in the first of the data directories."""
    if not data:
        raise UsageError("no data directory: name the one that fairseq-preprocess made")
    path = os.path.join(utils.split_paths(data)[0], "dict.txt")
    if not os.path.isfile(path):
        raise UsageError(
            f"data directory {os.path.dirname(path)} has no dict.txt: name the one that fairseq-preprocess made"
        )
    dictionary = Dictionary.load(path)
    logger.info("dictionary: %d types", len(dictionary))
    return dictionary
