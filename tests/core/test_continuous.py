"""Each part of the family against the slow float64 computations of ``reference_family.py``.

Both sides are float64: 1e-10 leaves the order of sums a factor of a thousand. Where the reference integrates over a
grid, its own error is far below the tolerance: the midpoint rule converges exponentially for such functions.
"""

import math

import pytest
import reference_family as reference
import torch
from family import SEGMENT, make, pieces, read, text
from hypothesis import given, settings
from hypothesis import strategies as st

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import compressive, continuous
from lamemo_fairseq.core.memory import signal as signals
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 1e-10, "atol": 1e-10}
few = settings(max_examples=10, deadline=None)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# compressive


@few
@given(rate=st.integers(2, 5), groups=st.integers(1, 4), seed=st.integers(0, 1000))
def test_compression_functions(rate: int, groups: int, seed: int) -> None:
    rows = noise(2, rate * groups, 6, seed=seed)
    usage = noise(2, rate * groups, seed=seed + 1).round(decimals=0)  # with ties
    for dilation in (1, compressive.dilation(rate)):
        conv = compressive.Convolution(6, rate, dilation).double()
        expected = [reference.compress_conv(row, rate, conv.conv.weight, dilation) for row in rows]
        torch.testing.assert_close(conv(rows), torch.stack(expected), **EXACT)
    mean = make("compressive-mean", compression_rate=rate, mem_len=rate).memory.compressions[0]
    torch.testing.assert_close(mean(rows), torch.stack([reference.compress_mean(row, rate) for row in rows]), **EXACT)
    most = make("compressive-max", compression_rate=rate, mem_len=rate).memory.compressions[0]
    torch.testing.assert_close(most(rows), torch.stack([reference.compress_max(row, rate) for row in rows]), **EXACT)
    chosen = compressive.most_used(usage, rate)
    for row, used, places in zip(rows, usage, chosen):
        assert torch.equal(row[places], reference.compress_most_used(row, used.tolist(), rate))


def compressive_run(kind: str, segments: int):
    """A training decoder after some segments, its last inputs, and the losses of the last segment."""
    decoder, store = make(kind).train(), MemoryStore("test")
    for k, piece in enumerate(pieces(text(2, segments * SEGMENT))):
        state = store.committed[decoder].state if k else None
        _, extra = decoder(piece, store=store, segment=k)
    return decoder, state, store.committed[decoder].state, extra["losses"]


@pytest.mark.parametrize("kind", ["compressive", "compressive-dilated", "compressive-pre-norm"])
def test_reconstruction_loss(kind: str) -> None:
    decoder, before, after, losses = compressive_run(kind, segments=4)
    total = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(decoder.layers):
        # With room for six rows, the four that leave are the oldest ones, and the segment is the newest.
        x = after.tensors[f"layer{number}"][:, -SEGMENT:]
        rows = torch.cat([before.tensors[f"layer{number}"], x], dim=1)[:, :SEGMENT]
        conv = decoder.memory.compressions[number].conv
        Wk, Wv = layer.attention.kv_proj.weight.chunk(2)
        norm = layer.attention_norm if layer.normalize_before else (lambda states: states)
        errors = []
        for b in range(2):
            new = reference.compress_conv(rows[b], 2, conv.weight, conv.dilation[0])
            arguments = (layer.attention.q_proj.weight, Wk, Wv, 2)
            wanted = reference.content_attention(norm(x[b]), norm(rows[b]), *arguments)
            errors.append(wanted - reference.content_attention(norm(x[b]), norm(new), *arguments))
        total = total + torch.stack(errors).pow(2).mean()
    torch.testing.assert_close(losses["reconstruction"], total.detach(), **EXACT)


@pytest.mark.parametrize("kind", ["compressive", "compressive-dilated", "compressive-pre-norm"])
def test_the_reconstruction_loss_trains_the_compression_alone(kind: str) -> None:
    decoder, _, _, losses = compressive_run(kind, segments=5)
    losses["reconstruction"].backward()
    for name, parameter in decoder.named_parameters():
        if name.startswith("memory.compressions"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name
        else:
            assert parameter.grad is None, name


def test_the_text_loss_leaves_the_compression_alone_and_training_improves_it() -> None:
    decoder = make("compressive", scale=0.2).train()
    optimizer = torch.optim.Adam(decoder.memory.parameters(), lr=0.02)
    history = []
    for _ in range(15):
        store, losses = MemoryStore("test"), []
        for k, piece in enumerate(pieces(text(2, 24))):
            scores, extra = decoder(piece, store=store, segment=k)
            losses.append(extra["losses"]["reconstruction"])
            text_loss = scores.logsumexp(-1).sum()
            assert not torch.autograd.grad(text_loss, list(decoder.memory.parameters()), allow_unused=True)[0]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        history.append(float(sum(losses).detach()))
    assert history[-1] < 0.5 * history[0]


def test_compression_by_one_is_a_longer_memory() -> None:
    """Two queues without compression are one: the positions run over the whole length."""
    plain = make("recurrence", mem_len=10)
    decoder = make("compressive", compressed_mem_len=4, compression="mean")
    decoder.memory.rate = 1
    for pool in decoder.memory.compressions:
        pool.rate = 1
    decoder.load_state_dict(plain.state_dict())
    torch.testing.assert_close(read(decoder, text(2, 40)), read(plain, text(2, 40)), **EXACT)


def test_usage_is_the_attention_per_query() -> None:
    """What the most-used rows are chosen by, from the weights of the layer's own attention."""
    decoder, store = make("compressive-used", mem_len=8), MemoryStore("test")
    tokens = text(1, 12)
    for k, piece in enumerate(pieces(tokens)):
        decoder(piece, store=store, segment=k)
    state = store.committed[decoder].state
    layer, rows = decoder.layers[0], decoder.embed(tokens, 0)
    geometry = decoder.positions.geometry(SEGMENT, 8, SEGMENT, rows)
    q = layer.attention.split(layer.attention.q_proj(rows[:, 8:])) * layer.attention.head_dim**-0.5
    keys = layer.attention.split(layer.attention.kv_proj(rows).chunk(2, -1)[0])
    distances = layer.attention.project_distances(geometry, None)
    weights = layer.attention.causal_scores(q, keys, distances, geometry, decoder.biases).softmax(-1)
    expected = weights.mean(1).mean(1)[:, 4:8]  # of rows 4 to 7, which were read by the third segment only
    torch.testing.assert_close(state.tensors["usage0"][:, :4], expected, **EXACT)


@pytest.mark.parametrize("rate", range(2, 9))
def test_a_dilated_compression_passes_over_no_row(rate: int) -> None:
    """But for the last rows of what leaves together, whose taps would stand in groups to come."""
    decoder = make("compressive-dilated", compression_rate=rate, mem_len=rate)
    conv = decoder.memory.compressions[0]
    rows = noise(1, 10 * rate * rate, 12).requires_grad_()
    conv(rows).pow(2).sum().backward()
    seen = rows.grad[0].abs().sum(-1) > 0
    assert seen[: -conv.padding].all()
    # And no compressed row holds anything of more groups than are checked for documents.
    rows = noise(1, 10 * rate * rate, 12).requires_grad_()
    conv(rows)[0, -1].sum().backward()
    first = int(rows.grad[0].abs().sum(-1).nonzero()[0])
    assert decoder.memory.reach == 10 * rate - first // rate


# continuous


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
    """The old signal is sampled over [0, 1] and fitted again over [0, tau], the new rows behind it."""
    decoder = make("continuous")
    signal, rows = noise(1, 8, 12), noise(1, 4, 12, seed=1)
    got = decoder.memory.extend(signal, rows, None)[0]  # not sticky: nothing is bounded
    tau, S = decoder.memory.tau, 8
    values = [reference.signal_at(signal[0], (m + 0.5) / S) for m in range(S)]
    places = [tau * (m + 0.5) / S for m in range(S)] + [tau + (1 - tau) * (i + 0.5) / 4 for i in range(4)]
    expected = reference.ridge(torch.stack([*values, *rows[0]]), places, decoder.memory.ridge, 8)
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
        rows = noise(2, 16, 12, seed=number)
        signal = memory.extend(signal, rows, usage)
        height = (signals.evaluate(signals.midpoints(500, 0, 1, rows), basis_functions) @ signal).abs().max()
        assert height < 1.2 * continuous.HEADROOM * rows.abs().max()


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
            products = torch.stack([(Wk[part] @ row) @ q / d**0.5 for row in signal[0]])
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
    """Long after the rows of recurrence are gone, the first segment still matters to the signal."""
    tokens = text(1, 40)
    other = tokens.clone()
    other[:, :SEGMENT] = text(1, SEGMENT, seed=3)
    change = {}
    for kind in ("recurrence", "continuous"):
        decoder = make(kind, decoder_layers=1)
        change[kind] = (read(decoder, tokens)[:, -1] - read(decoder, other)[:, -1]).abs().max()
    assert change["recurrence"] < 1e-12 < 1e-6 < change["continuous"]


# shaw


@few
@given(entries=st.integers(1, 12), seed=st.integers(0, 1000))
def test_learned_distances(entries: int, seed: int) -> None:
    """The memory filled, so that distances go beyond a short table."""
    decoder, store = make("recurrence-shaw", seed=seed, max_distance=entries), MemoryStore("test")
    tokens = text(2, 3 * SEGMENT, seed)
    seen = {}
    attention = decoder.layers[0].attention
    attention.out_proj.register_forward_hook(lambda module, inputs, output: seen.update(heads=inputs[0].detach()))
    for k, piece in enumerate(pieces(tokens)):
        decoder(piece, store=store, segment=k)
    rows = decoder.embed(tokens, 0)[:, -6 - SEGMENT :]
    Wk, Wv = attention.kv_proj.weight.chunk(2)
    table = (attention.table.content, attention.table.embedding, attention.table.offset)
    for b in range(2):
        expected = reference.shaw_attention(rows[b], 6, attention.q_proj.weight, Wk, Wv, *table)
        torch.testing.assert_close(seen["heads"][b], expected, **EXACT)


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
