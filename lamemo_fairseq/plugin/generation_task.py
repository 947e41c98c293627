"""Fairseq's hooks for generation; what they do is in ``generate.py`` and ``prompts.py``."""

from typing import Any, Callable, Dict, List, Optional, Tuple

from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..core.errors import UsageError
from ..data.layout import Text
from ..generation.flags import check_generation
from ..generation.prompts import HistoricBatches, History, PromptBlocks, PromptLines, continue_texts, encode_lines
from ..generation.search import PromptedGenerator
from .config import MemoryLanguageModelingConfig


class GenerationHooks(FairseqTask):
    """The part of the task that ``fairseq-generate``, ``fairseq-interactive`` and the Python interface call."""

    cfg: MemoryLanguageModelingConfig
    dictionary: Dictionary

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
        if not self.cfg.carry_memory:
            return batches
        return HistoricBatches(batches, History(text, segment, eos), blocks.segments)

    def typed_prompts(self, lines: PromptLines, max_sentences: Optional[int]) -> Any:
        """Batches of prompts for ``fairseq-interactive`` and the Python interface."""
        if self.cfg.carry_memory or self.cfg.prompt_blocks is not None:
            raise UsageError(
                "--carry-memory and --prompt-blocks are about a split: use them with fairseq-generate, typed prompts "
                "have no text before them"
            )
        return super().get_batch_iterator(lines, max_sentences=max_sentences or 1)

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
