#!/usr/bin/env python3
"""``lamemo prepare pg19``, named as the older scripts are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lamemo_fairseq.cli.main import old_spelling  # noqa: E402

if __name__ == "__main__":
    old_spelling("scripts/prepare_pg19.py", ["prepare", "pg19"])
