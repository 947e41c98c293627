"""LaMemo and its relatives for fairseq: importing this package registers the model and the task."""

from .data import characters
from .plugin import criterion, error_reporting, fairseq_patches, model, task, warning_filters
from .plugin.criterion import MemoryCrossEntropyCriterion
from .plugin.model import LaMemoLanguageModel
from .plugin.task import MemoryLanguageModelingTask

warning_filters.install()
error_reporting.install()
fairseq_patches.install()

__all__ = [
    "LaMemoLanguageModel",
    "MemoryCrossEntropyCriterion",
    "MemoryLanguageModelingTask",
    "characters",
    "criterion",
    "error_reporting",
    "fairseq_patches",
    "model",
    "task",
    "warning_filters",
]
