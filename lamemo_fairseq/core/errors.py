"""Errors that a user can mend: one line that names the flag, its value and the way out."""

import math
from dataclasses import fields
from typing import Any


class UsageError(ValueError):
    """A mistake in flags, data or files, which commands show without a traceback."""


def at_least(name: str, value: float, least: float) -> None:
    """Raises ``UsageError`` where the value of the flag for field ``name`` is too small."""
    if value < least:
        raise UsageError(f"--{name.replace('_', '-')} {value} is too small: choose {least} or more")


def check_finite(options: Any) -> None:
    """Raises ``UsageError`` where a number of a dataclass of flags is NaN or infinite: no comparison would tell."""
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, float) and not math.isfinite(value):
            flag = option.name.replace("_", "-")
            raise UsageError(f"--{flag} {value} is no finite number: choose one, e.g. {option.default}")


def refuse_unless_default(options: Any, name: str, needed: str, given: str) -> None:
    """Raises ``UsageError`` where a dataclass's field ``name`` was given that means nothing without ``needed``."""
    value, flag = getattr(options, name), name.replace("_", "-")
    if value != options.__dataclass_fields__[name].default:
        shown = "" if value is True else f" {value}"
        raise UsageError(f"--{flag}{shown} needs {needed}, not {given}: leave it out, or choose {needed}")
