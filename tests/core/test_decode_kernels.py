"""Compiled code for single tokens: equal to torch's operations, used where it can be, and said where it cannot."""

import logging
import random
from typing import Dict, List

import pytest
import torch
from family import KINDS, SEGMENT, make, text

from lamemo_fairseq.core import decode_kernels
from lamemo_fairseq.core.compiled import cpp_compiler
from lamemo_fairseq.core.fast_decode import TransposedLinear
from lamemo_fairseq.core.user_cache import user_cache

compiles = pytest.mark.skipif(cpp_compiler() is None, reason="no C++ compiler is found")


@compiles
@torch.no_grad()
def test_linear_layers() -> None:
    """All shapes of blocks and rows: the worst error, of all cases, is within four times torch's, from float64.

    Errors are in units of the terms' sizes. Not case by case: torch has a single number right to the last bit at times.
    """
    library, draw = decode_kernels.load(), random.Random(0)
    assert library is not None
    torch.manual_seed(0)
    errors: Dict[str, List[float]] = {"torch": [], "compiled": []}
    for _ in range(60):
        rows, inner, outer = draw.randint(1, 9), draw.randint(1, 70), draw.choice([1, 15, 16, 63, 64, 65, 200])
        x, weight, residual = torch.randn(rows, inner), torch.randn(outer, inner), torch.randn(rows, outer)
        bias = torch.randn(outer) if draw.random() < 0.5 else None
        flags = {"residual": residual if draw.random() < 0.5 else None, "relu": draw.random() < 0.5}
        wide = {name: flag.double() if isinstance(flag, torch.Tensor) else flag for name, flag in flags.items()}
        exact = TransposedLinear.of(weight.double(), None if bias is None else bias.double())(x.double(), **wide)
        plain = TransposedLinear.of(weight, bias)(x, **flags)
        got = decode_kernels.PackedLinear.of(library, weight, bias)(x, **flags)
        size = x.double().abs() @ weight.double().abs().mT + 1
        for name, found in (("torch", plain), ("compiled", got)):
            errors[name].append(float(((found - exact).abs() / size).max()))
    assert max(errors["compiled"]) <= 4 * max(errors["torch"]), errors


def decode(decoder, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Features [B, ., D] of single tokens behind a prompt, the streams in another order halfway; and the state."""
    opened, found = decoder.new_segment(tokens.size(0)), []
    list(decoder.decode_tokens(tokens[:, :prompt], opened))
    for place in range(prompt, tokens.size(1)):
        if place == prompt + SEGMENT - 2:
            opened.reorder(torch.arange(tokens.size(0)).flip(0))
        found += list(decoder.decode_tokens(tokens[:, place : place + 1], opened))
    assert (opened.weights[0].library is not None) == (decoder.fused and tokens.size(0) <= decode_kernels.ROWS), "path"
    return torch.cat(found, dim=1).double()


@compiles
@pytest.mark.parametrize("same_length, kind", [*((False, kind) for kind in sorted(KINDS)), (True, "compressive-used")])
@torch.no_grad()
def test_every_kind(same_length: bool, kind: str) -> None:
    """Heads of 32, more keys than a block has columns, more streams than a block has rows; over segment ends."""
    sizes = {"decoder_embed_dim": 64, "decoder_ffn_embed_dim": 80, "mem_len": 72, "same_length": same_length}
    tokens = text(6, 72 + 4 * SEGMENT)
    prompt = tokens.size(1) - 2 * SEGMENT + 1
    exact = None
    errors = []
    for no_fused_kernels in (True, False):
        decoder = make(kind, scale=0.1, no_fused_kernels=no_fused_kernels, **sizes)
        if exact is None:
            decoder.fused = False
            exact = decode(decoder, tokens, prompt)
        errors.append((decode(decoder.float(), tokens, prompt) - exact).abs().max())
    assert errors[1] <= 4 * errors[0] + 1e-6, errors


@compiles
@torch.no_grad()
def test_many_streams_and_other_types_take_torch_operations() -> None:
    decode(make("recurrence").float(), text(decode_kernels.ROWS + 1, 3 * SEGMENT), SEGMENT)
    for dtype in (torch.float64, torch.bfloat16):
        assert decode_kernels.kernels_for(torch.zeros(1, 4, dtype=dtype)) is None


@torch.no_grad()
def test_without_a_compiler(monkeypatch, tmp_path, caplog) -> None:
    """One line says it, and tokens are decoded as well."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    decode_kernels.load.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            decoder = make("lookahead").float()
            opened = decoder.new_segment(2)
            for token in text(2, 6).split(1, dim=1):
                list(decoder.decode_tokens(token, opened))
        assert opened.weights[0].library is None
        assert [record.message for record in caplog.records] == [
            "single tokens are decoded by torch's operations, not by compiled code, which is faster: no C++ compiler "
            "is found"
        ]
    finally:
        decode_kernels.load.cache_clear()


@compiles
def test_threads_are_those_of_torch() -> None:
    """A second OpenMP library would bring threads of its own, that wait in loops for the same cores."""
    path = decode_kernels.compile_library(user_cache())
    assert b"libgomp" not in path.read_bytes() and b"libomp" not in path.read_bytes()
