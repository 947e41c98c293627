"""Language models with memory: LaMemo and its relatives.

Where fairseq is installed, importing this package registers the model, the task and the criterion with it, whether it
comes as ``--user-dir`` or by name. Where it is not, ``lamemo_fairseq.core`` works alone.
"""

from importlib.util import find_spec

__all__ = []

if find_spec("fairseq") is not None:
    from .data import characters
    from .plugin import criterion, error_reporting, fairseq_patches, model, task, text_encoders, warning_filters
    from .plugin.criterion import MemoryCrossEntropyCriterion
    from .plugin.model import LaMemoLanguageModel
    from .plugin.task import MemoryLanguageModelingTask

    warning_filters.install()
    error_reporting.install()
    fairseq_patches.install()

    __all__ += [
        "LaMemoLanguageModel",
        "MemoryCrossEntropyCriterion",
        "MemoryLanguageModelingTask",
        "characters",
        "criterion",
        "error_reporting",
        "fairseq_patches",
        "model",
        "task",
        "text_encoders",
        "warning_filters",
    ]
