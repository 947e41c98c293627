"""What the server process of ``commands.py`` imports once. The plugin comes as ``--user-dir`` brings it."""

from argparse import Namespace
from pathlib import Path

import fairseq_cli.eval_lm  # noqa: F401
import fairseq_cli.generate  # noqa: F401
import fairseq_cli.hydra_train  # noqa: F401
import fairseq_cli.interactive  # noqa: F401
import fairseq_cli.preprocess  # noqa: F401
import fairseq_cli.train  # noqa: F401
import fairseq_cli.validate  # noqa: F401
import torch._dynamo  # noqa: F401  (comes with the first optimizer)
from fairseq import utils

utils.import_user_module(Namespace(user_dir=str(Path(__file__).resolve().parents[1] / "lamemo_fairseq")))

import faults  # noqa: E402, F401  (after the plugin)
