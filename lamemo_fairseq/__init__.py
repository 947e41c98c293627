"""LaMemo and its relatives for fairseq: importing this package registers the model and the task."""

from . import characters, criterion, hooks, messages, model, task
from .criterion import MemoryCrossEntropyCriterion
from .model import LaMemoLanguageModel
from .task import MemoryLanguageModelingTask

messages.install()
hooks.install()

__all__ = [
    "LaMemoLanguageModel",
    "MemoryCrossEntropyCriterion",
    "MemoryLanguageModelingTask",
    "characters",
    "criterion",
    "hooks",
    "messages",
    "model",
    "task",
]
