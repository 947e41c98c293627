"""Fairseq's hooks for generation; what they do is in ``lamemo_fairseq/generation``."""

from typing import Any, Callable, Dict, List, Optional, Tuple

from fairseq.data import Dictionary
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..core.errors import UsageError
from ..data.text import Text
from ..generation.flags import check_generation
from ..generation.history import History, continue_prompts
from ..generation.interactive import TypedLines
from ..generation.prompts import HistoricBatches, PromptBlocks, PromptLines
from ..generation.search import PromptedGenerator
from ..generation.text import LineCodec
from .config import MemoryLanguageModelingConfig


class GenerationHooks(FairseqTask):
    """The part of the task that ``fairseq-generate``, ``fairseq-interactive`` and the Python interface call."""

    cfg: MemoryLanguageModelingConfig
    dictionary: Dictionary
    typed: Optional[TypedLines] = None  # of fairseq-interactive

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
        if max_tokens is not None and max_tokens < blocks.block:
            raise UsageError(
                f"--max-tokens {max_tokens} is less than a block of {blocks.block} tokens, which holds a prompt of "
                f"--prefix-size {self.cfg.prefix_size}: raise it, or give --batch-size"
            )
        batches = super().get_batch_iterator(
            blocks, max_tokens, max_sentences, num_shards=num_shards, shard_id=shard_id, num_workers=num_workers
        )
        if not self.cfg.carry_memory:
            return batches
        return HistoricBatches(batches, History(text, segment, eos), blocks.segments)

    def typed_prompts(self, lines: PromptLines, max_tokens: Optional[int], max_sentences: Optional[int]) -> Any:
        """Batches of prompts for ``fairseq-interactive``."""
        if self.cfg.prompt_blocks is not None or self.cfg.prefix_size != 0:
            raise UsageError("--prompt-blocks and --prefix-size are about a split: use them with fairseq-generate")
        if len(lines) > 0 and max_tokens is not None and max_tokens < lines.longest:
            raise UsageError(f"--max-tokens {max_tokens} is less than a prompt's {lines.longest} tokens: raise it")
        if self.cfg.carry_memory:
            max_sentences = 1
        elif max_sentences is None and max_tokens is None:
            max_sentences = 1
        return super().get_batch_iterator(lines, max_tokens, max_sentences)

    def get_interactive_tokens_and_lengths(
        self, lines: List[str], encode_fn: Callable[[str], str]
    ) -> Tuple[List[Tensor], List[int]]:
        """Tokens of typed prompts, none of a line that has no prompt."""
        if self.typed is None:
            self.typed = TypedLines(self.dictionary, self.cfg.tokens_per_sample, self.cfg.carry_memory)
        tokens = self.typed.encode(lines, encode_fn)
        return tokens, [len(prompt) for prompt in tokens]

    def build_dataset_for_inference(self, src_tokens: List[Tensor], src_lengths: Any, **unused: Any) -> PromptLines:
        """Typed prompts as a dataset."""
        return PromptLines(src_tokens, self.dictionary.pad(), in_order=self.cfg.carry_memory)

    def build_tokenizer(self, args: Any) -> LineCodec:
        """Fairseq's tokenizer, which shows ``</s>`` as the line end that it is."""
        return LineCodec(super().build_tokenizer(args), self.dictionary.eos_word)

    def build_bpe(self, args: Any) -> LineCodec:
        """Fairseq's BPE, which shows ``</s>`` as the line end that it is."""
        return LineCodec(super().build_bpe(args), self.dictionary.eos_word)

    def build_generator(  # type: ignore[override]
        self,
        models: List[Any],
        args: Any,
        seq_gen_cls: Optional[Any] = None,
        extra_gen_cls_kwargs: Optional[Dict[str, Any]] = None,
        **options: Any,
    ) -> Any:
        """The generator that reads prompts ahead, for fairseq's choice of search."""
        extra = {"stop_at_eos": self.cfg.stop_at_eos, "write_unk": self.cfg.write_unk, **(extra_gen_cls_kwargs or {})}
        check_generation(args, models, extra["write_unk"])
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
        if "segment" in sample["net_input"]:
            raise UsageError(
                "fairseq-generate has no prompts: give --prefix-size P, the tokens of each block that are continued "
                f"(1 or more, not {self.cfg.prefix_size})"
            )
        if self.typed is not None:
            return self.typed.answer(generator, models, sample)
        return continue_prompts(generator, models, sample, self.dictionary)
