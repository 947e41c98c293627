"""LaMemo and its relatives for fairseq: importing this package registers the model and the task."""

from . import hooks, messages, model, task
from .model import LaMemoLanguageModel
from .task import MemoryLanguageModelingTask

messages.install()
hooks.install()

__all__ = ["LaMemoLanguageModel", "MemoryLanguageModelingTask", "hooks", "messages", "model", "task"]
