"""The continuous memory against the slow float64 computations of ``reference_family.py``."""

import math

import pytest
import reference_family as reference
import torch
from family import SEGMENT, make, read, text
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kinds import noise

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import continuous
from lamemo_fairseq.core.memory import signal as signals

EXACT = {"rtol": 1e-10, "atol": 1e-10}

few = settings(max_examples=10, deadline=None)


@few
@given(past=st.integers(0, 9), new=st.integers(1, 9), ridge=st.sampled_from([0.01, 0.5, 3.0]))
def test_ridge_regression(past: int, new: int, ridge: float) -> None:
    tau, count = 0.6, 8
    values = noise(past + new, 5, seed=past)
    start = tau if past else 0.0
    places = [tau * (i + 0.5) / past for i in range(past)]
    places += [start + (1 - start) * (i + 0.5) / new for i in range(new)]
    fit = signals.regression(past, new, tau, count, ridge, torch.device("cpu"))
    torch.testing.assert_close(fit.T @ values, reference.ridge(values, places, ridge, count), rtol=1e-8, atol=1e-8)


def test_contraction() -> None:
    """The old signal is sampled over [0, 1] and fitted again over [0, tau], the new slots behind it."""
    decoder = make("continuous")
    signal, slots = noise(1, 8, 12), noise(1, 4, 12, seed=1)
    got = decoder.memory.extend(signal, slots, None)[0]  # not sticky: nothing is bounded
    tau, S = decoder.memory.tau, 8
    values = [reference.signal_at(signal[0], (m + 0.5) / S) for m in range(S)]
    places = [tau * (m + 0.5) / S for m in range(S)] + [tau + (1 - tau) * (i + 0.5) / 4 for i in range(4)]
    expected = reference.ridge(torch.stack([*values, *slots[0]]), places, decoder.memory.ridge, 8)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("basis_functions", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("new", [1, 16, 64])
def test_a_contracted_signal_dies_out(basis_functions: int, new: int) -> None:
    """Contracted again and again the signal does not grow, whatever the number of basis functions."""
    memory = make("continuous", long_term_basis=basis_functions).memory
    step = signals.regression(memory.samples, new, memory.tau, basis_functions, memory.ridge, torch.device("cpu"))
    places = signals.midpoints(memory.samples, 0, 1, step)
    again = step[: memory.samples].T @ signals.evaluate(places, basis_functions)  # [E, E], coefficients to coefficients
    assert torch.linalg.eigvals(again).abs().max() < 0.95


@pytest.mark.parametrize("basis_functions", [4, 16, 32])
def test_a_sticky_signal_stays_bounded(basis_functions: int) -> None:
    """Even where all queries always read the same small place, by the seam."""
    memory = make("continuous-sticky", long_term_basis=basis_functions).memory
    usage = torch.zeros(2, basis_functions, dtype=torch.float64)
    usage[0, basis_functions // 2] = usage[1, int(0.7 * basis_functions)] = 1
    signal = memory.extend(noise(2, 0, 12), noise(2, 16, 12), None)
    for number in range(300):
        slots = noise(2, 16, 12, seed=number)
        signal = memory.extend(signal, slots, usage)
        height = (signals.evaluate(signals.midpoints(500, 0, 1, slots), basis_functions) @ signal).abs().max()
        assert height < 1.2 * continuous.HEADROOM * slots.abs().max()


@few
@given(seed=st.integers(0, 1000))
def test_gaussian_attention(seed: int) -> None:
    decoder = make("continuous", seed=seed, scale=0.5)
    attention, layer = decoder.memory.attentions[0], decoder.layers[0].attention
    signal, x = noise(1, 8, 12, seed=seed), noise(1, 3, 12, seed=seed + 1)
    queries = layer.split(layer.q_proj(x)) * layer.head_dim**-0.5
    got = attention(signal, queries)
    Wk, Wv = attention.kv_proj.weight.chunk(2)
    d, divergence = layer.head_dim, 0.0
    out = torch.zeros(3, 2 * d, dtype=torch.float64)
    for head in range(2):
        part = slice(head * d, (head + 1) * d)
        for i in range(3):
            q = layer.q_proj.weight[part] @ x[0, i]
            products = torch.stack([(Wk[part] @ slot) @ q / d**0.5 for slot in signal[0]])
            mean = (attention.mean.weight[0] @ products + attention.mean.bias[0]).sigmoid().item()
            raw = (attention.variance.weight[0] @ products + attention.variance.bias[0]).item()
            variance = torch.tensor(raw, dtype=torch.float64).exp().log1p().item()
            out[i, part] = Wv[part] @ reference.gaussian_attention(signal[0], mean, variance)
            divergence += reference.kl(mean, variance, 0.05**2) / 3
    torch.testing.assert_close(got.hidden_states[0], out @ attention.out_proj.weight.T, rtol=1e-7, atol=1e-7)
    assert float(got.loss.detach()) == pytest.approx(divergence, rel=1e-6)


@few
@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_sticky_samples_are_quantiles_of_what_was_read(seed: int, count: int) -> None:
    decoder = make("continuous-sticky", seed=seed)
    attention = decoder.memory.attentions[0]
    mean, variance = noise(1, 2, 3, seed=seed).sigmoid(), noise(1, 2, 3, seed=seed + 1).exp() / 20
    usage = attention.usage(mean, variance)[0]
    for part in range(8):
        expected = sum(
            float(
                reference.integral(lambda t, m=m, v=v: reference.gaussian(t, m, v)[:, None], part / 8, part / 8 + 1 / 8)
            )
            for m, v in zip(mean.flatten().tolist(), variance.flatten().tolist())
        )
        assert usage[part].item() == pytest.approx(expected, abs=1e-6)
    places = signals.quantiles(usage[None], count)[0]
    for number, place in enumerate(places.tolist()):
        whole = int(place * 8)
        below = usage[:whole].sum() + (place * 8 - whole) * (usage[whole] if whole < 8 else 0)
        # The floor that keeps the integral rising moves it by some 1e-6.
        assert float(below / usage.sum()) == pytest.approx((number + 0.5) / count, abs=1e-4)


def test_without_its_output_the_signal_is_recurrence() -> None:
    plain = make("recurrence")
    decoder = make("continuous")
    decoder.load_state_dict(plain.state_dict(), strict=False)
    tokens = text(2, 30)
    assert (read(decoder, tokens) - read(plain, tokens)).abs().max() > 1e-3
    for attention in decoder.memory.attentions:
        torch.nn.init.zeros_(attention.out_proj.weight)
    torch.testing.assert_close(read(decoder, tokens), read(plain, tokens), **EXACT)


def test_the_signal_never_forgets_its_beginning_at_once() -> None:
    """Long after the slots of recurrence are gone, the first segment still matters to the signal."""
    tokens = text(1, 40)
    other = tokens.clone()
    other[:, :SEGMENT] = text(1, SEGMENT, seed=3)
    change = {}
    for kind in ("recurrence", "continuous"):
        decoder = make(kind, decoder_layers=1)
        change[kind] = (read(decoder, tokens)[:, -1] - read(decoder, other)[:, -1]).abs().max()
    assert change["recurrence"] < 1e-12 < 1e-6 < change["continuous"]


@pytest.mark.parametrize("basis_functions", [4, 8, 64, 256, 512])
def test_a_fit_that_would_be_singular_is_refused(basis_functions: int) -> None:
    """From the smallest penalty that is taken on, coefficients are finite and the equation holds; below, one line."""
    sizes = (basis_functions, 150, 0.75, basis_functions)
    least = signals.smallest_ridge(*sizes)
    assert least < 1e-4, "the default is far above"
    design = signals.design_matrix(basis_functions, 150, 0.75, basis_functions)
    largest = float(torch.linalg.matrix_norm(design.T @ design, ord=math.inf))
    assert least == pytest.approx(basis_functions * torch.finfo(torch.float64).eps * largest, rel=1e-9)
    with pytest.raises(UsageError, match=f"--long-term-ridge .* is too small for {basis_functions} basis functions"):
        signals.regression(*sizes, least / 2, torch.device("cpu"))
    fit = signals.regression(*sizes, least, torch.device("cpu"))
    assert fit.isfinite().all()
    with pytest.raises(UsageError, match="--long-term-ridge 1e-30"):
        continuous.ContinuousOptions(long_term_basis=basis_functions, long_term_ridge=1e-30).check(150)
