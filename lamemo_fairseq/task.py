"""Fairseq's hooks for ordered streams. No tensor mathematics here."""

import logging
import os
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from fairseq import utils
from fairseq.data import Dictionary, data_utils, iterators
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask, register_task
from torch import Tensor

from .config import MemoryLanguageModelingConfig
from .criterion import check_criterion
from .data import Layout, Segments, Text, rotation, rows_for
from .errors import UsageError
from .generate import PromptedGenerator
from .generation_flags import check_generation
from .prompts import (
    HistoricBatches,
    History,
    PromptBlocks,
    PromptLines,
    continue_texts,
    encode_lines,
    warn_of_other_segments,
)
from .streams import Stream
from .symbols import TextDictionary

logger = logging.getLogger(__name__)


@register_task("memory_language_modeling", dataclass=MemoryLanguageModelingConfig)
class MemoryLanguageModelingTask(FairseqTask):
    """Language modeling over text that is read in order, so that a model can remember it."""

    cfg: MemoryLanguageModelingConfig

    def __init__(self, cfg: MemoryLanguageModelingConfig, dictionary: Dictionary, **unused: Any) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.streams: Dict[str, Stream] = {}
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

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, task_cfg: Optional[Any] = None, **unused: Any
    ) -> None:
        """Loads a split as one text. Of several data directories, each epoch takes the next.

        ``task_cfg`` is the task of the checkpoint that a command has loaded.
        """
        if self.cfg.prefix_size > 0 and task_cfg is not None:
            warn_of_other_segments(self.cfg.tokens_per_sample, task_cfg)
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
        dataset: Union[Text, PromptLines],
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        **unused: Any,
    ) -> iterators.EpochBatchIterator:
        """Batches of ``max_sentences`` rows, segment after segment, never shuffled.

        Rank ``shard_id`` reads its own rows; all ranks together read every token once. Only ``fairseq-generate``
        has a ``--prefix-size``: its batches are prompts.
        """
        if isinstance(dataset, PromptLines):
            return super().get_batch_iterator(dataset, None, max_sentences or 1)
        if self.cfg.prefix_size > 0:
            return self.prompts(dataset, max_tokens, max_sentences, num_shards, shard_id, num_workers)
        tokens = self.cfg.tokens_per_sample
        rows = rows_for(max_sentences, max_tokens, tokens)
        rotates = self.cfg.random_offset and dataset.name == "train"
        offset = rotation(dataset.total, seed, epoch) if rotates else 0
        layout = Layout.even(dataset.total, rows * num_shards, tokens, offset=offset)
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
    ) -> iterators.EpochBatchIterator:
        """Fairseq's iterator over a layout."""
        segments = Segments(text, layout, self.dictionary.pad(), self.dictionary.eos())
        return iterators.EpochBatchIterator(
            dataset=segments,
            collate_fn=segments.collater,
            batch_sampler=segments.batches(rows, num_shards),
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=buffer_size,
            disable_shuffling=True,
            # Workers hold a copy of the layout, which may change from epoch to epoch.
            persistent_workers=False,
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

    def prompts(
        self,
        text: Text,
        max_tokens: Optional[int],
        max_sentences: Optional[int],
        num_shards: int,
        shard_id: int,
        num_workers: int,
    ) -> Any:
        """Batches of prompts for ``fairseq-generate``, with ``--carry-memory`` each with what came before."""
        segment, eos = self.cfg.tokens_per_sample, self.dictionary.eos()
        blocks = PromptBlocks(text, self.cfg.prefix_size, segment, self.dictionary.pad(), self.cfg.prompt_blocks)
        batches = super().get_batch_iterator(
            blocks, max_tokens, max_sentences, num_shards=num_shards, shard_id=shard_id, num_workers=num_workers
        )
        return (
            HistoricBatches(batches, History(text, segment, eos), blocks.segments) if self.cfg.carry_memory else batches
        )

    def get_interactive_tokens_and_lengths(
        self, lines: List[str], encode_fn: Callable[[str], str]
    ) -> Tuple[List[Tensor], List[int]]:
        """Tokens of typed prompts."""
        tokens = encode_lines(lines, encode_fn, self.dictionary)
        return tokens, [len(prompt) for prompt in tokens]

    def build_dataset_for_inference(self, src_tokens: List[Tensor], src_lengths: Any, **unused: Any) -> PromptLines:
        """Typed prompts as a dataset."""
        return PromptLines(src_tokens, self.dictionary.pad())

    def build_generator(  # type: ignore[override]
        self,
        models: List[Any],
        args: Any,
        seq_gen_cls: Optional[Any] = None,
        extra_gen_cls_kwargs: Optional[Dict[str, Any]] = None,
        **options: Any,
    ) -> Any:
        """The generator that reads prompts ahead, for fairseq's choice of search."""
        check_generation(args, models)
        extra = {"stop_at_eos": self.cfg.stop_at_eos, **(extra_gen_cls_kwargs or {})}
        for name in ("lm_model", "lm_weight"):  # fusion was refused above
            extra.pop(name, None)
        return super().build_generator(models, args, seq_gen_cls or PromptedGenerator, extra, **options)

    def inference_step(
        self,
        generator: Any,
        models: List[Any],
        sample: Dict[str, Any],
        prefix_tokens: Any = None,
        constraints: Any = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """Continues the prompts of a batch. ``prefix_tokens`` are those prompts again."""
        return continue_texts(generator, models, sample, self.dictionary)

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
            if not any(p.grad is not None for p in model.parameters()):
                stream.begin_update()
            sample = attach(sample, stream)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **extra)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """The update is made: what it read enters the memory."""
        super().optimizer_step(optimizer, model, update_num)
        for stream in self.streams.values():
            stream.commit()

    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Tuple[Tensor, int, Dict[str, Any]]:
        """One batch of a validation subset, which has a memory of its own."""
        if "segment" in sample["net_input"]:
            sample = attach(sample, self.stream(sample["stream"]))
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
    dictionary = TextDictionary.load(path)
    logger.info("dictionary: %d types", len(dictionary))
    return dictionary
