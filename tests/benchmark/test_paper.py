"""Counts at the paper's sizes are no higher than they were: bytes, kept, peak, kernels, waits."""

import pytest

from lamemo_fairseq.benchmark import paper
from lamemo_fairseq.core.compiled import cpp_compiler

GIB = 2**30


@pytest.mark.slow  # builds the paper's models and counts their steps, some ten seconds each
@pytest.mark.skipif(cpp_compiler() is None, reason="fake CUDA tensors need a C++ compiler")
@pytest.mark.parametrize(
    "preset, moved, kept, peak", [("lamemo_lm_enwik8_base", 89.2, 6.0, 6.5), ("lamemo_lm_wt103_base", 65.8, 2.4, 3.9)]
)
def test_a_look_ahead_step_costs_no_more_than_it_did(preset: str, moved: float, kept: float, peak: float) -> None:
    """Counts, not clocks: equal on every machine. The bounds leave some room for another version of torch."""
    counted = paper.count(preset, "lookahead")
    step, token = counted["step"], counted["token"]
    assert step["bytes"] / GIB < moved and step["kept"] / GIB < kept and step["peak"] / GIB < peak
    assert step["kernels_per_layer"] <= 43 and step["waits"] == 0 and token["waits"] == 0
    assert step["floor_bytes"] < step["bytes"] and token["floor_bytes"] < token["bytes"]


@pytest.mark.slow  # as above
@pytest.mark.skipif(cpp_compiler() is None, reason="fake CUDA tensors need a C++ compiler")
def test_the_fused_kernels_are_what_saves() -> None:
    fused = paper.count("lamemo_lm_enwik8_base", "lookahead")["step"]
    steps = paper.count("lamemo_lm_enwik8_base", "lookahead", no_fused_kernels=True)["step"]
    assert fused["bytes"] < 0.52 * steps["bytes"] and fused["kept"] < 0.52 * steps["kept"]
    assert 0.99 < fused["tflop"] / steps["tflop"] < 1.01, "the products are the same, and all are counted"
