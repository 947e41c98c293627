"""Where files that are made once per user and machine are kept."""

import os
from pathlib import Path


def user_cache() -> Path:
    """The package's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamemo_fairseq"
