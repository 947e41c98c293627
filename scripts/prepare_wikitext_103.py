#!/usr/bin/env python3
"""``lamemo prepare wikitext-103``, named as the older scripts are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lamemo_fairseq.cli.main import old_spelling  # noqa: E402

if __name__ == "__main__":
    old_spelling("scripts/prepare_wikitext_103.py", ["prepare", "wikitext-103"])
