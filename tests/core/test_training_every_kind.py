"""Every kind through the real command, with the dropout that users have unless they say otherwise."""

import re
from pathlib import Path
from typing import List

import pytest
from conftest import TINY, run
from family import KINDS

from lamemo_fairseq.plugin.config import LaMemoConfig


def flags_of(kind: str) -> List[str]:
    """A kind's line in the table, as the command line spells it."""
    words: List[str] = []
    for name, value in KINDS[kind].items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_with_the_default_dropout(kind: str, corpus: Path, tmp_path: Path) -> None:
    """The model's sizes are tiny, and dropout is not named; attention's is, since its default is 0."""
    assert LaMemoConfig().dropout > 0, "the default that this test is about"
    words = ["--criterion", "memory_cross_entropy", "--attention-dropout", "0.1", *flags_of(kind)]
    words += ["--max-update", "3", "--disable-validation", "--no-save", "--save-dir", str(tmp_path)]
    losses = [float(loss) for loss in re.findall(r" loss=([\d.]+),", run("train", corpus, *TINY, *words).stdout)]
    # The first update's loss is that of an untrained model: log2 of some 60 to 100 characters.
    assert len(losses) == 3 and all(0 < loss < 10 for loss in losses)
