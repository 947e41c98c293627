"""Attention and softmax as one operation each equal what is computed step by step: outputs, states and gradients."""

from typing import Any, Dict, Tuple

import pytest
import torch
from family import KINDS, make, text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamemo_fairseq.core import fused_softmax
from lamemo_fairseq.core.encodings import Disentangled
from lamemo_fairseq.core.fused_attention import fused_attention
from lamemo_fairseq.core.positions import Positions
from lamemo_fairseq.core.softmax import Attention
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def train(decoder: Any, cuts: Tuple[int, ...]) -> Dict[str, Tensor]:
    """Log-probabilities, the state and the gradients after segments of the lengths in ``cuts``."""
    store, found = MemoryStore("test"), {}
    tokens = text(2, sum(cuts) + 1)
    total: Any = 0
    for k, piece in enumerate(tokens[:, :-1].split(cuts, dim=1)):
        start = sum(cuts[:k])
        log_probs, extra = decoder(
            piece, store=store, segment=k, targets=tokens[:, start + 1 : start + 1 + piece.size(1)]
        )
        total = total - log_probs.double().sum() + sum(extra["losses"].values())
        found[f"log-probabilities {k}"] = log_probs.detach()
    total.backward()
    found.update({f"gradient {name}": p.grad for name, p in decoder.named_parameters() if p.grad is not None})
    state = store.committed[decoder].state
    return {**found, **{f"state {name}": tensor for name, tensor in state.tensors.items()}}


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=4, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 5), min_size=3, max_size=5).map(tuple),
    mem_len=st.sampled_from([4, 6, 12]),
    rest=st.sampled_from([{}, {"clamp_len": 3}, {"same_length": True}]),
)
def test_one_operation_equals_the_steps(kind: str, cuts: Tuple[int, ...], mem_len: int, rest: Dict[str, Any]) -> None:
    """Segments of all lengths: the look-ahead then sees all of the memory, part of it or little."""
    if rest and KINDS[kind].get("memory_type") == "none":
        rest = {}
    if "compression_rate" in KINDS[kind]:
        mem_len = 6
    fused = train(make(kind, mem_len=mem_len, **rest).train(), cuts)
    steps = train(make(kind, mem_len=mem_len, no_fused_kernels=True, **rest).train(), cuts)
    assert fused.keys() == steps.keys()
    for name, tensor in steps.items():
        torch.testing.assert_close(fused[name], tensor, **EXACT, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["lookahead", "lookahead-xl", "recurrence", "compressive", "continuous"])
def test_half_precision_errs_no_more_than_the_steps(kind: str, dtype: torch.dtype) -> None:
    """Against float64 with the same rounded weights; what the steps err in the same type is the measure."""
    cuts = (4,) * 5
    weights = {name: tensor.to(dtype) for name, tensor in make(kind).state_dict().items()}
    for name, tensor in weights.items():
        if name.endswith("fc1.bias"):
            tensor += 8  # far from a ReLU's kink, at which a rounding decides about a unit, and luck about the test

    def of(dtype: torch.dtype, **flags: Any) -> Dict[str, Tensor]:
        decoder = make(kind, **flags)
        decoder.load_state_dict(weights)
        return train(decoder.to(dtype).train(), cuts)

    exact, steps, fused = of(torch.float64), of(dtype, no_fused_kernels=True), of(dtype)

    def error(found: Dict[str, Tensor], part: str) -> float:
        wrong = [(found[name].double() - tensor).pow(2).sum() for name, tensor in exact.items() if part in name]
        return float(torch.stack(wrong).sum().sqrt())

    for part in ("log-probabilities", "gradient", "state"):
        # Roundings fall differently: two samples of the same error may differ by a third.
        assert error(fused, part) < 1.3 * error(steps, part), part


@pytest.mark.parametrize("continued", [False, True])
def test_gradients_with_dropped_weights(continued: bool) -> None:
    """Against finite differences, the same weights being dropped each time."""
    B, H, n, d = 2, 2, 3, 4
    M = n if continued else 2  # of the memory, which looks ahead or is a part of its own
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    encoding = Disentangled(dim=6)
    geometry = Positions(encoding, None, looks_ahead=continued, full=False).geometry(n, M, n, noise(1))
    vectors = encoding.biases(continued, H, d)
    previous = Attention(noise(B, H, M, d), noise(B, H, M)) if continued else None
    parts = [noise(B, M + n, 2 * H * d)] if continued else [noise(B, M, 2 * H * d), noise(B, n, 2 * H * d)]
    inputs = [noise(B, M + n if continued else n, H * d), noise(M + n + 1, H * d), *parts]
    names = [name for name, _ in vectors.named_parameters()]
    inputs += [noise(H, d) for _ in names]

    def output(queries: Tensor, encodings: Tensor, *rest: Tensor) -> Tensor:
        torch.manual_seed(2)
        for name, vector in zip(names, rest[len(parts) :]):
            vectors._parameters[name] = vector
        given = (queries, rest[: len(parts)], encodings, geometry, vectors)
        return fused_attention(*given, previous_attention=previous, dropout=0.3).output

    assert torch.autograd.gradcheck(output, [tensor.requires_grad_() for tensor in inputs])


@settings(max_examples=10, deadline=None)
@given(tokens=st.integers(1, 9), words=st.integers(2, 40), at_once=st.integers(1, 200))
def test_chunks_of_a_softmax_equal_the_whole(tokens: int, words: int, at_once: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in [(tokens, 6), (words, 6), (words,)]
    ]
    targets = torch.randint(0, words, (tokens,), generator=generator)
    weighting = torch.randn(tokens, generator=generator, dtype=torch.float64)
    features, weight, bias = inputs
    whole = torch.log_softmax(torch.nn.functional.linear(features, weight, bias), dim=1)
    whole = whole.gather(1, targets[:, None]).squeeze(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_softmax, "AT_ONCE", at_once)
        parts = fused_softmax.chunked_target_log_probs(features, weight, bias, targets)
        found = torch.autograd.grad((parts * weighting).sum(), inputs)
    torch.testing.assert_close(parts, whole, **EXACT)
    for one, other in zip(found, torch.autograd.grad((whole * weighting).sum(), inputs)):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunks_in_half_precision_err_no_more_than_the_whole(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 with the same rounded numbers; the log-sum-exp is taken from rounded weights."""
    monkeypatch.setattr(fused_softmax, "AT_ONCE", 40_000)
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator) for shape in [(64, 24), (1000, 24), (1000,)]]
    inputs = [tensor.to(dtype).requires_grad_() for tensor in made]
    targets = torch.randint(0, 1000, (64,), generator=generator)

    def whole(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        scores = torch.nn.functional.linear(features, weight, bias)
        wide = torch.promote_types(scores.dtype, torch.float32)
        return torch.log_softmax(scores, dim=1, dtype=wide).gather(1, targets[:, None]).squeeze(1)

    def of(log_probs: Tensor, inputs: Any) -> Any:
        return [log_probs.detach(), *torch.autograd.grad(log_probs.sum(), inputs)]

    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact, steps = of(whole(*wide), wide), of(whole(*inputs), inputs)
    fused = of(fused_softmax.chunked_target_log_probs(*inputs, targets), inputs)
    for name, right, one, other in zip(("log-probabilities", "features", "weight", "bias"), exact, fused, steps):
        assert (one.double() - right).norm() < 1.5 * (other.double() - right).norm(), name


def test_a_model_with_a_large_vocabulary_takes_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And learns what it learns without, to the last digit but a few."""
    steps = train(make("lookahead", no_fused_kernels=True).train(), (4, 4))
    monkeypatch.setattr(fused_softmax, "LARGE", 1)
    calls = []
    whole = fused_softmax.chunked_target_log_probs
    monkeypatch.setattr(fused_softmax, "chunked_target_log_probs", lambda *given: calls.append(1) or whole(*given))
    fused = train(make("lookahead").train(), (4, 4))
    assert calls
    for name, tensor in steps.items():
        torch.testing.assert_close(fused[name], tensor, **EXACT)
