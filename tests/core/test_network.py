"""The decoder against the slow reference: outputs, gradients and what it keeps, over random shapes.

float64 on both sides, so that only the order of sums differs: 1e-10 leaves that a factor of a thousand.
"""

import pytest
import torch
from bridge import build, package_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ReferenceConfig, ReferenceState, segment
from reference_weights import random_weights
from torch.utils.flop_counter import FlopCounterMode

from lamemo_fairseq.core import positions
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = 1e-10
VARIANTS = {
    "lookahead": {},
    "lookahead-v2": {"encoding": "disentangled-v2"},
    "lookahead-xl": {"encoding": "transformer-xl"},
    "lookahead-full": {"look_ahead": "full"},
    "lookahead-none": {"look_ahead": "none"},
    "lookahead-none-v2": {"look_ahead": "none", "encoding": "disentangled-v2"},
    "lookahead-detached": {"detach_memory": True},
    "recurrence": {"memory": "recurrence", "encoding": "transformer-xl"},
    "none": {"memory": "none", "encoding": "absolute"},
    "none-xl": {"memory": "none", "encoding": "transformer-xl"},
}


def config(variant: str, **changes: object) -> ReferenceConfig:
    sizes = {
        "vocab_size": 11,
        "layers": 3,
        "heads": 2,
        "head_dim": 3,
        "model_dim": 8,
        "ffn_dim": 10,
        "mem_len": 5,
    }
    return ReferenceConfig(**{**sizes, **VARIANTS[variant], **changes})  # type: ignore[arg-type]


@st.composite
def cases(draw):
    """Sizes, segment lengths (each with how many of its tokens enter the memory), and documents or none."""
    mem_len = draw(st.integers(0, 9))
    cfg = config(
        draw(st.sampled_from(sorted(VARIANTS))),
        mem_len=mem_len,
        clamp_len=draw(st.sampled_from([-1, 3])),
        same_length=mem_len > 0 and draw(st.booleans()),
        pre_norm=draw(st.booleans()),
        heads=draw(st.integers(1, 3)),
    )
    lengths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=5))
    keeps = [draw(st.integers(0, length)) for length in lengths]
    return cfg, lengths, keeps, draw(st.booleans()), draw(st.integers(0, 10**6)), draw(st.sampled_from([2, 64]))


@settings(max_examples=35, deadline=None)
@given(cases())
def test_reference(case) -> None:
    cfg, lengths, keeps, with_documents, seed, block = case
    B, total = 2, sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in random_weights(cfg, seed).items()}
    tokens = torch.randint(cfg.vocab_size, (B, total), generator=generator)
    documents = None
    if with_documents:
        documents = (torch.rand(B, total, generator=generator) < 0.15).long().cumsum(1)
    decoder, store = build(cfg, weights), MemoryStore("test")
    state, start = ReferenceState.empty(cfg, B), 0
    old_block, positions.BLOCK = positions.BLOCK, block
    try:
        for number, (length, keep) in enumerate(zip(lengths, keeps)):
            span = slice(start, start + length)
            piece = None if documents is None else documents[:, span]
            expected, state = segment(cfg, weights, state, tokens[:, span], keep=keep, documents=piece)
            scores, _ = decoder(tokens[:, span], store=store, segment=number, tokens_to_memory=keep, documents=piece)
            torch.testing.assert_close(scores, expected, rtol=EXACT, atol=EXACT)
            # Squares give each entry of the gradient a weight of its own.
            expected.square().sum().backward()
            scores.square().sum().backward()
            start += length
    finally:
        positions.BLOCK = old_block
    gradients = package_weights(
        {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in weights.items()}
    )
    for name, parameter in decoder.named_parameters():
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        scale = max(1.0, float(gradients[name].abs().max()))
        torch.testing.assert_close(own / scale, gradients[name] / scale, rtol=EXACT, atol=EXACT, msg=name)
    compare_states(cfg, store.committed[decoder].state, state, with_documents)


def compare_states(cfg: ReferenceConfig, own, expected: ReferenceState, with_documents: bool) -> None:
    if cfg.memory == "none":
        assert own.tensors == {}
        return
    assert own.last_written == expected.entered and own.length == expected.documents.size(1)
    assert (own.documents is not None) == with_documents
    if with_documents:
        assert torch.equal(own.documents, expected.documents)
    names = ["embeddings"] if cfg.memory == "lookahead" else [f"layer{n}" for n in range(cfg.layers)]
    for name, rows in zip(names, expected.inputs):
        torch.testing.assert_close(own.tensors[name], rows, rtol=EXACT, atol=EXACT)
    if cfg.memory == "lookahead" and cfg.look_ahead != "none":
        for layer in range(cfg.layers - 1):  # the last layer's rows are read by nobody, and not kept
            for name, tensors in (("output", expected.outputs), ("lse", expected.lse)):
                torch.testing.assert_close(own.tensors[f"{name}{layer}"], tensors[layer], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_single_precision_errs_like_a_plain_softmax(variant: str) -> None:
    """float32 may err by a few roundings per layer: 2e-5 is a hundred times the spacing of numbers near 1."""
    cfg = config(variant, mem_len=6)
    weights = random_weights(cfg)
    tokens = torch.randint(cfg.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    wide, narrow = build(cfg, weights), build(cfg, {n: w.float() for n, w in weights.items()})
    one, other = MemoryStore("wide"), MemoryStore("narrow")
    for number in range(4):
        piece = tokens[:, number * 6 : number * 6 + 6]
        exact, _ = wide(piece, store=one, segment=number)
        rounded, _ = narrow(piece, store=other, segment=number)
        torch.testing.assert_close(rounded.double(), exact, rtol=2e-5, atol=2e-5)
        for name, tensor in other.committed[narrow].state.tensors.items():
            assert tensor.dtype == torch.float32, name


def test_no_matrix_grows_with_memory_squared() -> None:
    """Counted, not timed: multiplications of a segment grow linearly with the memory."""

    def multiplications(mem_len: int) -> int:
        cfg = config("lookahead", mem_len=mem_len)
        decoder, store = build(cfg, random_weights(cfg)), MemoryStore("test")
        tokens = torch.randint(cfg.vocab_size, (1, 64))
        for number in range(mem_len // 64 + 1):
            decoder(tokens, store=store, segment=number)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            decoder(tokens, store=store, segment=mem_len // 64 + 1)
        return counter.get_total_flops()

    one, two, four = (multiplications(mem_len) for mem_len in (256, 512, 1024))
    # Linear growth doubles the increment with the step; a square would quadruple it.
    assert 1.95 < (four - two) / (two - one) < 2.05
