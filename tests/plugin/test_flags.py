"""Flags of the family that contradict each other: one line that names the flag, its value and the way out."""

import math
import re
from dataclasses import fields
from typing import Any, Dict, List, Tuple

import pytest
from family import SIZES, dictionary

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import KINDS
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.criterion import check_criterion
from lamemo_fairseq.plugin.decoder import LaMemoDecoder

WRONG = {
    "compression rate": ({"memory_type": "compressive", "compression_rate": 4}, "--compression-rate 4 does not divide"),
    "no compression": ({"memory_type": "compressive", "compression_rate": 1}, "--compression-rate 1"),
    "no room": (
        {"memory_type": "compressive", "compression_rate": 2, "compressed_mem_len": -1},
        "--compressed-mem-len",
    ),
    "another kind's": ({"compressed_mem_len": 8}, "--compressed-mem-len 8 needs --memory-type compressive, not"),
    "compression": ({"memory_type": "recurrence", "compression": "mean"}, "--compression mean needs"),
    "sticky": ({"memory_type": "recurrence", "long_term_sticky": True}, "--long-term-sticky needs --memory-type cont"),
    "look-ahead": ({"memory_type": "compressive", "compression_rate": 2, "look_ahead": "full"}, "--look-ahead full"),
    "basis": ({"memory_type": "continuous", "long_term_basis": 7}, "--long-term-basis 7"),
    "contraction": ({"memory_type": "continuous", "long_term_contraction": 1.0}, "--long-term-contraction 1.0"),
    "ridge": ({"memory_type": "continuous", "long_term_ridge": 0.0}, "--long-term-ridge 0.0"),
    "singular": ({"memory_type": "continuous", "long_term_ridge": 1e-30}, "--long-term-ridge 1e-30 is too small"),
    "table": ({"max_distance": 5}, "--max-distance 5 needs --position-encoding shaw"),
    "encoding": ({"position_encoding": "shaw"}, "--position-encoding shaw cannot be used with --memory-type lookahead"),
    "cutoffs above": ({"adaptive_softmax_cutoff": "9,23"}, "above the vocabulary of 23"),
    "cutoffs fall": ({"adaptive_softmax_cutoff": "9,5"}, "--adaptive-softmax-cutoff 9,5"),
    "no cutoffs": ({"adaptive_softmax_cutoff": "few"}, "--adaptive-softmax-cutoff few"),
    "input alone": ({"adaptive_input": True}, "--adaptive-input needs --adaptive-softmax-cutoff"),
    "too narrow": ({"adaptive_softmax_cutoff": "5,9", "adaptive_softmax_factor": 6.0}, "--adaptive-softmax-factor 6"),
    "tied alone": ({"adaptive_softmax_cutoff": "9", "tie_adaptive_weights": True}, "--tie-adaptive-weights needs"),
    "projections alone": (
        {"adaptive_softmax_cutoff": "9", "adaptive_input": True, "tie_adaptive_proj": True},
        "--tie-adaptive-proj needs --tie-adaptive-weights",
    ),
    "factors": (
        {
            "adaptive_softmax_cutoff": "9",
            "adaptive_input": True,
            "tie_adaptive_weights": True,
            "adaptive_input_factor": 2.0,
        },
        "equal factors",
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_flags(case: str) -> None:
    flags, line = WRONG[case]
    with pytest.raises(UsageError) as error:
        cfg = LaMemoConfig(**{**SIZES, **flags})
        cfg.check()
        LaMemoDecoder(cfg, dictionary(), 4)
    assert line in str(error.value) and "\n" not in str(error.value)


def numbers() -> List[Tuple[str, Dict[str, Any]]]:
    """Every flag of the model that takes a fraction, and the flags without which it means nothing."""
    found = []
    for option in fields(LaMemoConfig):
        if isinstance(option.default, float) or "float" in str(option.type):
            needed: Dict[str, Any] = {"adaptive_softmax_cutoff": "9"} if option.name.startswith("adaptive") else {}
            if option.name.startswith("adaptive_input"):
                needed["adaptive_input"] = True
            for name, kind in KINDS.items():
                if option.name in {own.name for own in fields(kind.options_class)}:
                    needed["memory_type"] = name
            found.append((option.name, needed))
    return found


@pytest.mark.parametrize("name, needed", numbers(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_number_is_no_flag(name: str, needed: Dict[str, Any]) -> None:
    """NaN passes every comparison that looks for what is too small."""
    assert len(numbers()) >= 9
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UsageError) as error:
            LaMemoConfig(**{**SIZES, **needed, name: value}).check()
        told = str(error.value)
        assert re.match(rf"--{name.replace('_', '-')} {value} is (no finite number|not in)", told) and "\n" not in told


def test_criteria() -> None:
    check_criterion("cross_entropy", "lookahead", ())
    check_criterion("memory_cross_entropy", "compressive", ("reconstruction",))
    with pytest.raises(UsageError, match="choose --criterion memory_cross_entropy"):
        check_criterion("cross_entropy", "compressive", ("reconstruction",))
    with pytest.raises(UsageError, match="leaves out a word"):
        check_criterion("adaptive_loss", "lookahead", ())
