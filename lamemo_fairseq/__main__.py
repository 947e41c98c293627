"""``python -m lamemo_fairseq``: the same as ``lamemo``."""

import sys

from .cli.main import main

sys.exit(main())
