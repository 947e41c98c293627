"""Errors that a user can mend: one line that names the flag, its value and the way out."""


class UsageError(ValueError):
    """A mistake in flags, data or files; ``messages.py`` shows it without a traceback."""
