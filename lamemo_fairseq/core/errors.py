"""Errors that a user can mend: one line that names the flag, its value and the way out."""

from hydra.errors import CompactHydraException


class UsageError(ValueError, CompactHydraException):
    """A mistake in flags, data or files, shown without a traceback: by ``messages.py``, and by hydra itself."""
