#!/usr/bin/env python3
"""``lamemo prepare enwik8``, in a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lamemo_fairseq.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", "enwik8", *sys.argv[1:]]))
