"""Warnings of hydra and torch that a user of fairseq can do nothing about, by their exact beginnings.

They come from how fairseq calls these libraries; everything else is still shown.
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


def install() -> None:
    """Filters these warnings, and hydra's notes of what it does inside."""
    for module, message in UNAVOIDABLE:
        warnings.filterwarnings("ignore", message=re.escape(message), module=re.escape(module))
    logging.getLogger("hydra.core.utils").setLevel(logging.INFO)
