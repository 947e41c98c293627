"""Warnings of hydra and torch, and notes of fairseq, that a user can do nothing about, by their exact words.

They come from how fairseq calls these libraries, and of what it does inside; everything else is still shown.
"""

import logging
import re
import warnings

#: the module that a warning names ("": any), and how its message begins
UNAVOIDABLE = (
    ("hydra.experimental.initialize", "hydra.experimental.initialize() is no longer experimental"),
    ("hydra.experimental.initialize", "\nThe version_base parameter is not specified"),
    ("hydra.experimental.compose", "hydra.experimental.compose() is no longer experimental"),
    ("hydra.core.default_element", "In 'config': Usage of deprecated keyword in package header '# @package _group_'"),
    ("", "\n'config' is validated against ConfigStore schema with the same name"),
    ("hydra.compose", "\nThe strict flag in the compose API is deprecated"),
    ("fairseq.tasks.fairseq_task", "`torch.cuda.amp.autocast(args...)` is deprecated"),
    ("fairseq.optim.amp_optimizer", "`torch.cuda.amp.GradScaler(args...)` is deprecated"),
    ("torch.utils.data.dataloader", "'pin_memory' argument is set as true but no accelerator is found"),
)

#: the logger that a note goes to, and all of its words
NOTES = (
    # four lines in front of each answer of fairseq-interactive.
    ("fairseq.tasks.fairseq_task", r"(can_reuse_epoch_itr|reuse_dataloader|rebuild_batches) = (True|False)"),
    ("fairseq.tasks.fairseq_task", r"creating new batches for epoch \d+"),
)


class Unless(logging.Filter):
    """Drops the records whose whole message a pattern matches."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.fullmatch(record.getMessage()) is None


def install() -> None:
    """Filters these warnings and notes, and hydra's notes of what it does inside."""
    for module, message in UNAVOIDABLE:
        warnings.filterwarnings("ignore", message=re.escape(message), module=re.escape(module))
    for logger, pattern in NOTES:
        logging.getLogger(logger).addFilter(Unless(pattern))
    logging.getLogger("hydra.core.utils").setLevel(logging.INFO)
