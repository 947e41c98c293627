"""The model as fairseq knows it: registration, building, loading."""

import logging
from argparse import Namespace
from typing import Any, Callable, Dict, Optional, Tuple

from fairseq.models import (
    FairseqLanguageModel,
    register_model,
    register_model_architecture,
)
from torch import Tensor

from ..core.errors import UsageError
from ..generation.hub import local_directory
from ..generation.python_api import TextInterface, from_pretrained
from .config import LaMemoConfig
from .decoder import LaMemoDecoder
from .presets import PRESETS
from .task import MemoryLanguageModelingTask

logger = logging.getLogger(__name__)


@register_model("lamemo_lm", dataclass=LaMemoConfig)
class LaMemoLanguageModel(FairseqLanguageModel):
    """A language model with memory (LaMemo, arXiv 2204.07341, and its relatives)."""

    decoder: LaMemoDecoder

    @classmethod
    def build_model(cls, cfg: LaMemoConfig, task: Any) -> "LaMemoLanguageModel":
        """Checks the flags and builds the model for the task's dictionary and segment length."""
        # The configuration arrives as an omegaconf container, which has the fields but not the methods.
        given = cfg
        # A checkpoint of an earlier version lacks newer flags, which then have their defaults.
        cfg = LaMemoConfig(**{name: given[name] for name in LaMemoConfig.__dataclass_fields__ if name in given})
        cfg.check()
        separator = None
        if isinstance(task, MemoryLanguageModelingTask):
            segment_length, separator = task.cfg.tokens_per_sample, task.separator()
            if cfg.compile and task.cfg.varlen:
                raise UsageError(
                    "--compile makes code for segments of one length, and --varlen draws others: leave one of them out"
                )
        else:
            segment_length = task.args.tokens_per_sample
            logger.warning(
                "the task feeds no ordered streams, so each block is read WITHOUT MEMORY: "
                "--task memory_language_modeling reads text in order"
            )
        if cfg.learns_distances and cfg.max_distance is None:
            cfg.max_distance = cfg.mem_len + segment_length
            # The configuration that fairseq gave is the one that checkpoints keep, and from them the table must get
            # this size again, whatever segments it is read with then.
            given.max_distance = cfg.max_distance
            logger.info("--max-distance %d: --mem-len + --tokens-per-sample, kept in checkpoints", cfg.max_distance)
        logger.info("memory: %s, %d tokens; positions: %s", cfg.memory_type, cfg.mem_len, cfg.encoding)
        return cls(LaMemoDecoder(cfg, task.source_dictionary, segment_length, separator))

    @property
    def memory_length(self) -> int:
        """Tokens that a full memory holds."""
        return self.decoder.memory.span

    def get_normalized_probs(
        self, net_output: Tuple[Tensor, Any], log_probs: bool, sample: Optional[Dict[str, Any]] = None
    ) -> Tensor:
        """(Log-)probabilities [B, N, V]; an evaluation's tally notes those of the targets.

        The tally travels in ``sample`` and is changed here, because fairseq-eval-lm shows probabilities to nobody else:
        it strips pads from its scores, skips infinite ones, and adds up in float32 what it has rounded.
        """
        probabilities = super().get_normalized_probs(net_output, log_probs, sample)
        if sample is not None and "tally" in sample:
            sample["tally"].note(probabilities, sample["target"], log_probs)
        return probabilities

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        checkpoint_file: Optional[str] = None,
        data_name_or_path: Optional[str] = None,
        revision: Optional[str] = None,
        **overrides: Any,
    ) -> TextInterface:
        """A trained model that samples, scores and streams text: see ``generation/python_api.py``.

        ``model_name_or_path`` is a folder, or ``owner/name`` on the Hugging Face hub, there at ``revision``.
        """
        folder = local_directory(model_name_or_path, revision)
        return from_pretrained(folder, checkpoint_file, data_name_or_path, **overrides)

    def load_state_dict(
        self,
        state_dict: Dict[str, Tensor],
        strict: bool = True,
        model_cfg: Optional[Any] = None,
        args: Optional[Namespace] = None,
    ) -> Any:
        """Loads weights; other shapes than the configuration's are an error of one line."""
        own = self.state_dict()
        for name in sorted(own.keys() | state_dict.keys()):
            if name not in state_dict or name not in own:
                where = "the checkpoint lacks" if name not in state_dict else "the model has no"
                raise UsageError(
                    f"{where} {name}: it was trained with another memory type, position encoding or "
                    "number of layers; leave these out of --model-overrides"
                )
            if own[name].shape != state_dict[name].shape:
                raise UsageError(
                    f"{name} has shape {tuple(state_dict[name].shape)} in the checkpoint and "
                    f"{tuple(own[name].shape)} in the model: use the checkpoint's dictionary, and leave "
                    "widths out of --model-overrides"
                )
        return super().load_state_dict(state_dict, strict, model_cfg, args)


def architecture(preset: Dict[str, Any]) -> Callable[[Namespace], None]:
    """Fills in a preset's values where the command line gave none."""

    def fill(args: Namespace) -> None:
        for name, value in preset.items():
            if not hasattr(args, name):
                setattr(args, name, value)

    return fill


for preset_name, preset in PRESETS.items():
    register_model_architecture("lamemo_lm", preset_name)(architecture(preset.model))
