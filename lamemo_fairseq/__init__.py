"""LaMemo and its relatives for fairseq: importing this package registers the model and the task."""

from . import characters, messages, model, task
from .model import LaMemoLanguageModel
from .task import MemoryLanguageModelingTask

messages.install()

__all__ = ["LaMemoLanguageModel", "MemoryLanguageModelingTask", "characters", "messages", "model", "task"]
