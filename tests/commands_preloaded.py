"""What the server process of ``commands.py`` imports once. The plugin comes as ``--user-dir`` brings it."""

import sys
from argparse import Namespace
from pathlib import Path

import torch

torch.set_num_threads(1)  # threads do not survive a fork

import fairseq_cli.eval_lm  # noqa: E402, F401
import fairseq_cli.preprocess  # noqa: E402, F401
import fairseq_cli.train  # noqa: E402, F401
from fairseq import utils  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
utils.import_user_module(Namespace(user_dir=str(Path(__file__).resolve().parents[1] / "lamemo_fairseq")))
