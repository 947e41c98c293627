"""LaMemo and its relatives for fairseq: importing this package registers the model and the task."""

from . import criterion, messages, model, task
from .criterion import MemoryCrossEntropyCriterion
from .model import LaMemoLanguageModel
from .task import MemoryLanguageModelingTask

messages.install()

__all__ = [
    "LaMemoLanguageModel",
    "MemoryCrossEntropyCriterion",
    "MemoryLanguageModelingTask",
    "criterion",
    "messages",
    "model",
    "task",
]
