"""Every kind through the real command, with the dropout that users have unless they say otherwise."""

import re
from dataclasses import fields
from pathlib import Path
from typing import List, get_type_hints

import pytest
from conftest import TINY, run
from family import KINDS

from lamemo_fairseq.core.memory import KINDS as REGISTERED
from lamemo_fairseq.plugin.config import LaMemoConfig, plain


def flags_of(kind: str) -> List[str]:
    """A kind's line in the table, as the command line spells it."""
    words: List[str] = []
    for name, value in KINDS[kind].items():
        if name == "max_distance":
            continue  # its default follows other flags, and is what users have
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


def test_the_table_has_every_variant() -> None:
    """Each registered kind, with each encoding that it takes and each value of its flags that are choices."""
    found = {(cfg.memory_type, cfg.encoding) for cfg in (LaMemoConfig(**flags) for flags in KINDS.values())}
    assert found >= {(name, encoding) for name, kind in REGISTERED.items() for encoding in kind.encodings}
    hints = get_type_hints(LaMemoConfig)
    for name, kind in REGISTERED.items():
        lines = [flags for flags in KINDS.values() if LaMemoConfig(**flags).memory_type == name]
        for option in fields(kind.options_class):
            choices = (
                {False, True} if hints[option.name] is bool else set(getattr(hints[option.name], "__members__", ()))
            )
            assert {plain(getattr(LaMemoConfig(**flags), option.name)) for flags in lines} >= choices, option.name


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_with_the_default_dropout(kind: str, corpus: Path, tmp_path: Path) -> None:
    """The model's sizes are tiny, and dropout is not named; attention's is, since its default is 0."""
    assert LaMemoConfig().dropout > 0, "the default that this test is about"
    words = ["--criterion", "memory_cross_entropy", "--attention-dropout", "0.1", *flags_of(kind)]
    words += ["--max-update", "3", "--disable-validation", "--no-save", "--save-dir", str(tmp_path)]
    losses = [float(loss) for loss in re.findall(r" loss=([\d.]+),", run("train", corpus, *TINY, *words).stdout)]
    # The first update's loss is that of an untrained model: log2 of some 60 to 100 characters.
    assert len(losses) == 3 and all(0 < loss < 10 for loss in losses)
