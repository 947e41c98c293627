#!/usr/bin/env python3
"""Turns a checkpoint of the authors' LaMemo program into one that every fairseq command loads."""

import argparse
import sys

from lamemo_fairseq.interop.authors import import_checkpoint
from lamemo_fairseq.plugin import error_reporting as messages


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="file with model_config, model_state, vocab")
    parser.add_argument("--save-dir", required=True, help="where checkpoint.pt and dict.txt go")
    arguments = parser.parse_args()
    messages.install()
    # Fairseq looks for --user-dir in sys.argv, where it must not find ours.
    sys.argv = sys.argv[:1]
    print(import_checkpoint(arguments.checkpoint, arguments.save_dir))


if __name__ == "__main__":
    main()
