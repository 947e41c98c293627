"""How errors reach a user of fairseq's commands: as one line, without a traceback.

Mistakes that this package finds are ``UsageError``. A few that only fairseq or torch can meet (a damaged
checkpoint, say) are recognised by the function in which they were raised.
"""

import sys
import traceback
from types import TracebackType
from typing import Optional, Type

from ..core.errors import UsageError


def explain(error: BaseException) -> Optional[str]:
    """One line for a user's mistake, None for anything else."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, UsageError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return explain_checkpoint(error) or explain_input(error)


def explain_input(error: BaseException) -> Optional[str]:
    """One line for prompts that ``fairseq-interactive`` cannot read."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name != "buffered_read":
            continue
        path = frame.f_locals["input"]
        if isinstance(error, UnicodeDecodeError):
            return f"--input {path} is not UTF-8: convert it, for instance with iconv -f latin1 -t utf-8"
        if isinstance(error, OSError):
            return f"--input {path} cannot be read ({error.strerror}): name a text file, a prompt per line"
    return None


def explain_checkpoint(error: BaseException) -> Optional[str]:
    """One line for a checkpoint that fairseq cannot read."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name != "load_checkpoint_to_cpu":
            continue
        path = frame.f_locals["path"]
        if "state" in frame.f_locals:
            return (
                f"{path} is no checkpoint of fairseq: scripts/import_checkpoint.py converts one of the authors' program"
            )
        # What torch raises depends on where the file breaks off; a file that is missing says so itself.
        if not isinstance(error, (FileNotFoundError, PermissionError, MemoryError)):
            return f"{path} is truncated or damaged, or no checkpoint at all: use another one"
    return None


def install() -> None:
    """Has the interpreter print :func:`explain`'s line where there is one."""
    previous = sys.excepthook

    def hook(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
        line = explain(error)
        if line is None:
            previous(kind, error, trace)
        else:
            print(f"error: {line}", file=sys.stderr)

    sys.excepthook = hook
