"""The task: fairseq's hooks for language modeling with memory. No tensor mathematics here."""

import logging
from functools import partial
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.tasks import register_task
from torch import Tensor

from ..core.documents import Separator
from ..core.errors import UsageError
from ..data.checks import find_documents, warn_of_short_streams
from ..data.counts import read_counts
from ..data.dictionary import check_same, identify
from ..data.directory import SplitFiles, load_dictionary, load_split
from ..data.layout import Layout, rotation, streams_per_rank
from ..data.memory_store import MemoryStore, attach
from ..data.segments import Segments
from ..data.spelling import Spelling
from ..data.text import Text
from ..data.varied_layout import varied
from ..evaluation.eval_lm_report import conclude
from ..evaluation.plan import EvaluationPlan
from ..evaluation.scoring import NonFiniteLoss, ScoredBatches
from ..generation.prompts import PromptLines, warn_of_other_segments
from ..training import distributed as gather
from ..training import metrics as run_metrics
from ..training.csv_log import CsvLog
from ..training.resume import StreamIterator
from ..training.train_step import TrainingMemory
from .config import MemoryLanguageModelingConfig
from .criterion import check_criterion
from .generation_task import GenerationHooks
from .presets import check_architecture

logger = logging.getLogger(__name__)


@register_task("memory_language_modeling", dataclass=MemoryLanguageModelingConfig)
class MemoryLanguageModelingTask(GenerationHooks):
    """Language modeling over text that is read in order, so that a model can remember it."""

    cfg: MemoryLanguageModelingConfig

    def __init__(self, cfg: MemoryLanguageModelingConfig, dictionary: Dictionary, **unused: Any) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.characters = Spelling.of(dictionary).is_characters  # whether every token is one character
        self.training_memory = TrainingMemory(cfg.train_subset)
        self.validation_memory: Dict[str, MemoryStore] = {}  # by split; not training's, whatever the split is called
        # Two facts of the models built so far: fairseq hands models to neither build_criterion nor eval_lm_dataloader,
        # which it calls behind build_model, so the task is where these can learn of them.
        self.wanted_losses: Dict[str, Tuple[str, ...]] = {}  # auxiliary losses by memory kind
        self.memory_length = 0  # tokens that a full memory holds
        # The subset of the last valid_step: post_validate is told numbers, not whose they are.
        self.validating = "valid"
        self.trains = False  # whether validation belongs to a training
        self.laid_out: Set[str] = set()  # splits whose layout was looked at: once is enough
        self.csv: Optional[CsvLog] = None
        self.files: Dict[str, SplitFiles] = {}  # of the splits that are loaded
        self.trained_tokens: Optional[int] = None  # --tokens-per-sample of the checkpoint that was loaded last

    @classmethod
    def setup_task(cls, cfg: MemoryLanguageModelingConfig, **kwargs: Any) -> "MemoryLanguageModelingTask":
        """Loads the dictionary of the (first) data directory."""
        MemoryLanguageModelingConfig.check(cfg)
        directories = utils.split_paths(cfg.data) if cfg.data else []
        dictionary = load_dictionary(directories[0] if directories else None)
        logger.info("dictionary: %d types", len(dictionary))
        return cls(cfg, dictionary, **kwargs)

    @property
    def source_dictionary(self) -> Dictionary:
        """The symbols."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The symbols."""
        return self.dictionary

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Builds the model, and notes what it needs: a criterion, and warm-up as long as its memory."""
        check_architecture(cfg)
        model = super().build_model(cfg, from_checkpoint)
        self.memory_length = max(self.memory_length, model.memory_length)
        self.wanted_losses[str(cfg.memory_type)] = model.decoder.memory.auxiliary_loss_names
        return model

    def build_criterion(self, cfg: Any, **options: Any) -> Any:
        """Builds the criterion, unless it leaves out what the model's memory needs."""
        for memory_type, losses in self.wanted_losses.items():
            check_criterion(cfg._name, memory_type, losses)
        return super().build_criterion(cfg, **options)

    def state_dict(self) -> Dict[str, Any]:
        """What a checkpoint keeps of the task: its dictionary's identity, and how long its segments are."""
        own = {"tokens_per_sample": self.cfg.tokens_per_sample}
        return {**super().state_dict(), "dictionary": identify(self.dictionary), **own}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Compares a checkpoint's dictionary with the data's; checkpoints of other programs keep none."""
        if "dictionary" in state_dict:
            check_same(state_dict["dictionary"], self.dictionary, str(self.cfg.data))
        self.trained_tokens = state_dict.get("tokens_per_sample")  # earlier versions kept none

    def separator(self) -> Optional[Separator]:
        """What clears a stream's memory; None without ``--memory-reset document``."""
        if str(self.cfg.memory_reset) == "never":
            return None
        return Separator.of(self.dictionary, self.cfg.document_separator)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, task_cfg: Optional[Any] = None, **unused: Any
    ) -> None:
        """Loads a split as one text. Of several data directories, each epoch takes the next.

        ``task_cfg`` is the task of the checkpoint that a command has loaded.
        """
        if self.cfg.prefix_size > 0 and task_cfg is not None and "tokens_per_sample" in task_cfg:
            warn_of_other_segments(self.cfg.tokens_per_sample, task_cfg["tokens_per_sample"])
        paths = utils.split_paths(self.cfg.data)
        directory = paths[(epoch - 1) % len(paths)]
        text, files = load_split(directory, split, self.dictionary, self.cfg.dataset_impl, combine)
        self.datasets[split], self.files[split] = text, files

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Looks whether the data is still there, before an epoch reads it."""
        super().begin_epoch(epoch, model)
        for files in self.files.values():
            files.check()

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
        grouped_shuffling: Optional[bool] = None,
        **unused: Any,
    ) -> StreamIterator:
        """Batches of ``max_sentences`` streams, segment after segment, never shuffled.

        Rank ``shard_id`` reads its own streams; all ranks together read every token once. Only ``fairseq-generate``
        has a ``--prefix-size``: its batches are prompts. ``grouped_shuffling`` comes from the trainer where it
        trains, and is how ``--valid-subset train`` is told from training.
        """
        if str(self.cfg.sample_break_mode) == "eos":
            raise UsageError(
                "--sample-break-mode eos scores independent sentences with fairseq-eval-lm: leave it out here, "
                "where text is read in order, or clear the memory with --memory-reset document"
            )
        if isinstance(dataset, PromptLines):
            return self.typed_prompts(dataset, max_tokens, max_sentences)
        if self.cfg.prefix_size > 0:
            return self.prompts(dataset, max_tokens, max_sentences, num_shards, shard_id, num_workers)
        tokens = self.cfg.tokens_per_sample
        streams = streams_per_rank(max_sentences, max_tokens, tokens)
        trains = grouped_shuffling is not None
        offset = rotation(dataset.total, seed, epoch) if self.cfg.random_offset and trains else 0
        if self.cfg.varlen and trains:
            layout = varied(dataset.total, streams * num_shards, tokens, seed, epoch, offset)
        else:
            layout = Layout.even(dataset.total, streams * num_shards, tokens, offset=offset)
        if dataset.name not in self.laid_out and gather.rank() == 0:
            warn_of_short_streams(layout, dataset.name, tokens, num_shards)
        self.laid_out.add(dataset.name)
        return self.iterate(dataset, layout, streams, num_shards, shard_id, num_workers, epoch)

    def iterate(
        self,
        text: Text,
        layout: Layout,
        streams: int,
        num_shards: int,
        shard_id: int,
        num_workers: int,
        epoch: int,
    ) -> StreamIterator:
        """Fairseq's iterator over a layout."""
        separator = self.separator()
        documents = None if separator is None else find_documents(text, separator, self.dictionary)
        segments = Segments(text, layout, self.dictionary.pad(), self.dictionary.eos(), documents)
        return StreamIterator(
            segments,
            streams,
            num_shards,
            shard_id,
            num_workers,
            epoch,
            not self.cfg.no_save_memory,
        )

    def evaluation_plan(self, context: int, streams: int, shards: int = 1, shard: int = 0) -> EvaluationPlan:
        """How a split is read to be scored, ``tokens_per_sample`` new tokens at a time."""
        return EvaluationPlan(
            tokens=self.cfg.tokens_per_sample,
            context=context,
            streams=streams,
            memory=self.memory_length,
            warmup=self.cfg.stream_warmup,
            shards=shards,
            shard=shard,
            independent_lines=str(self.cfg.sample_break_mode) == "eos",
            separator=self.separator(),
        )

    def eval_lm_dataloader(  # type: ignore[override]
        self,
        dataset: Text,
        batch_size: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 1,
        context_window: int = 0,
        **unused: Any,
    ) -> ScoredBatches:
        """Batches for ``fairseq-eval-lm``, each with the memory that it continues; a report follows the last.

        fairseq-eval-lm has taken the context window off tokens_per_sample already.
        """
        shards = (num_shards, shard_id)
        plan = self.evaluation_plan(context_window, 1 if batch_size is None else batch_size, *shards)
        if not plan.independent_lines and self.trained_tokens not in (None, plan.tokens):
            warn_of_other_segments(plan.tokens + context_window, self.trained_tokens)
        counts = read_counts(utils.split_paths(self.cfg.data)[0], dataset.name)
        finish = partial(
            conclude, text=(dataset.name, dataset.total), shards=shards, model=self.cfg.path, counts=counts
        )
        return plan.batches(dataset, self.dictionary, finish, num_workers)

    def begin_training(self, save_dir: str, updates: int) -> None:
        """Training begins in ``save_dir``, or goes on after so many updates; later epochs do not come here."""
        self.trains = True
        if self.cfg.csv_log is not None and gather.rank() == 0:
            self.csv = CsvLog(self.cfg.csv_log, save_dir, updates)

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
        """One micro-batch. Its memory counts once :meth:`optimizer_step` has made the update."""
        step = partial(super().train_step, model=model, criterion=criterion, optimizer=optimizer, update_num=update_num)
        memory = self.training_memory
        loss, sample_size, output = memory.run(partial(step, **extra), sample, optimizer, ignore_grad)
        return loss, sample_size, {**output, **run_metrics.observe(memory, loss.device)}

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """The update is made, and what it read enters the memory."""
        self.training_memory.make(partial(super().optimizer_step, optimizer, model, update_num), optimizer)

    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Tuple[Tensor, int, Dict[str, Any]]:
        """One batch of a validation subset, which has a memory of its own."""
        self.validating = split = sample["split"]
        if "segment" in sample["net_input"]:
            sample = attach(sample, self.validation_memory.setdefault(split, MemoryStore(split)))
        loss, sample_size, output = super().valid_step(sample, model, criterion)
        # A run in training goes on and logs it; fairseq-validate would print nan and exit as if all were well.
        if not self.trains and not torch.isfinite(loss):
            raise NonFiniteLoss.of(str(self.cfg.path), sample["ntokens"], float(loss))
        return loss, sample_size, output

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """Adds bits per token (and character), and what training tells about its memory."""
        super().reduce_metrics(logging_outputs, criterion)
        run_metrics.log_bits(self.characters)
        if any("readings" in output for output in logging_outputs):  # of training
            run_metrics.report(logging_outputs)
            # Smoothed values are read from the device, which the host then waits for: only where a line is due.
            if self.csv is not None and run_metrics.updates_so_far() % self.cfg.log_interval == 0:
                self.csv.write("train", metrics.get_smoothed_values("train_inner"))

    def post_validate(self, model: Any, stats: Dict[str, Any], meters: Any) -> None:
        """Fairseq has validated a subset."""
        if self.csv is not None:
            self.csv.write(self.validating, stats)
