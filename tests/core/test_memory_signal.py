"""The continuous memory by literal numbers: sizes, what enters the signal, sampling, losses, quantiles."""

import math
from typing import Any

import pytest
import torch
from test_memory_condensed import compressive, segment, sizes
from torch import nn

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import continuous, signal
from lamemo_fairseq.core.memory.base import MemoryState, SegmentRecord
from lamemo_fairseq.core.memory.continuous import ContinuousMemory, ContinuousOptions, SignalAttention

LIKE = torch.zeros(1, dtype=torch.float64)


def memory_of_signals(**flags: Any) -> ContinuousMemory:
    options = ContinuousOptions(**{"long_term_basis": 6, **flags})
    options.check(4)
    torch.manual_seed(1)
    return ContinuousMemory(sizes(4, layers=2, dim=3), options).double()


def test_sizes_of_a_continuous_memory() -> None:
    memory = memory_of_signals(long_term_samples=5, long_term_ridge=0.3, long_term_contraction=0.6)
    assert (memory.capacity, memory.span, memory.samples, memory.basis_functions) == (4, 36, 5, 6)
    assert (memory.ridge, memory.tau, memory.sticky, memory.weight) == (0.3, 0.6, False, 1e-5)
    assert memory.full_length("signal1") == 6 and memory.full_length("layer1") == 4
    assert memory.auxiliary_loss_names == ("kl",) and memory_of_signals(long_term_kl=0.0).auxiliary_loss_names == ()
    assert len(memory.attentions) == 2 and memory.attentions[0].prior == 0.05**2 and not memory.attentions[0].sticky
    assert memory.attentions[0].kv_proj.weight.shape == (12, 3) and memory.attentions[0].out_proj.weight.shape == (3, 6)
    assert memory.attentions[0].kv_proj.bias is None and memory.attentions[0].out_proj.bias is None
    assert memory.attentions[0].mean.weight.shape == memory.attentions[0].variance.weight.shape == (1, 6)
    empty = memory.empty(2, LIKE.bfloat16())
    assert {n: (tuple(t.shape), t.dtype) for n, t in empty.tensors.items()} == {
        **{f"layer{n}": ((2, 0, 3), torch.bfloat16) for n in (0, 1)},
        **{f"signal{n}": ((2, 0, 3), torch.float32) for n in (0, 1)},
    }
    assert memory.input_memory(empty, torch.ones(2, 7, 3)).shape == (2, 0, 3)


def test_a_signal_begins_when_slots_leave() -> None:
    memory = memory_of_signals()
    x = torch.arange(18.0).double().view(1, 6, 3)
    inputs = [x, 2 * x]
    start = memory.update(memory.empty(1, LIKE), SegmentRecord(x, inputs, usage=[None, None]), 4)
    assert [start.tensors[f"signal{n}"].size(1) for n in (0, 1)] == [0, 0] and (start.length, start.last_written) == (
        4,
        4,
    )
    assert memory.recall(start, 0, LIKE).long_term is None
    state = memory.update(start, SegmentRecord(x, inputs, usage=[None, None]), 3)
    assert (state.length, state.last_written) == (4, 3)
    for n, rows_of in enumerate(inputs):
        assert torch.equal(state.tensors[f"layer{n}"], torch.cat([rows_of[:, 3:4], rows_of[:, :3]], 1))
        fit = signal.regression(0, 3, 0.75, 6, 0.5, torch.device("cpu"))
        torch.testing.assert_close(state.tensors[f"signal{n}"], (fit.T @ rows_of[0, :3])[None])
    read = memory.recall(state, 1, LIKE)
    assert read.hidden_states is state.tensors["layer1"] and read.long_term is not None
    queries = torch.randn(1, 2, 5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = memory.attentions[1](state.tensors["signal1"], queries)
    assert torch.equal(read.long_term(queries).hidden_states, expected.hidden_states) and expected.usage is None
    same = memory.update(state, SegmentRecord(x, inputs, usage=[None, None]), 0)
    assert torch.equal(same.tensors["signal0"], state.tensors["signal0"]), "nothing leaves, nothing is contracted"


def test_a_sticky_signal_samples_where_it_was_read_and_is_bounded() -> None:
    memory = memory_of_signals(long_term_sticky=True, long_term_samples=5)
    generator = torch.Generator().manual_seed(3)
    old = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    new = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    usage = torch.tensor([[0.0, 0, 5, 1, 0, 0]])
    places = signal.quantiles(usage.double(), 5)
    fit = signal.regression(5, 2, 0.75, 6, 0.5, torch.device("cpu"))
    fitted = fit.T @ torch.cat([signal.evaluate(places, 6) @ old, new], 1)
    at = signal.evaluate(signal.midpoints(12, 0, 1, LIKE), 6)
    for scale in (1.0, 0.01):
        plain = fit.T @ torch.cat([signal.evaluate(places, 6) @ old, scale * new], 1)
        limit = continuous.HEADROOM * float((scale * new).abs().max())
        height = float((at @ plain).abs().max())
        torch.testing.assert_close(memory.extend(old, scale * new, usage), plain * min(1.0, limit / height))
    assert fitted.shape == (1, 6, 3)
    two = torch.cat([old, 100 * old])
    bounded = memory.bounded(two, torch.cat([new, new]))
    one = memory.bounded(old, new)
    torch.testing.assert_close(bounded[:1], one)
    torch.testing.assert_close(bounded[1:], memory.bounded(100 * old, new))


def test_the_regulariser_by_hand() -> None:
    memory = memory_of_signals(long_term_kl=0.25)
    record = SegmentRecord(LIKE, losses=[torch.tensor(3.0), torch.tensor(5.0)])
    assert {n: float(v) for n, v in memory.losses(MemoryState({}), record, 1, []).items()} == {"kl": 2.0}
    first = memory.losses(MemoryState({}), SegmentRecord(LIKE, losses=[None, None]), 1, [])["kl"]
    assert float(first.detach()) == 0.0
    assert all(float(g.abs().sum()) == 0 for g in torch.autograd.grad(first, list(memory.parameters())))
    assert memory_of_signals(long_term_kl=0.0).losses(MemoryState({}), record, 1, []) == {}
    for parameter in memory.parameters():  # as biases begin
        torch.nn.init.zeros_(parameter)
    assert float(memory.losses(MemoryState({}), SegmentRecord(LIKE, losses=[None]), 1, [])["kl"].detach()) == 0.0


def test_how_much_is_read_of_each_part() -> None:
    attention = SignalAttention(3, 2, 4, basis_functions=4, sigma=0.05, sticky=True).double()
    narrow = torch.full((1, 2, 1), 1e-8, dtype=torch.float64)
    mean = torch.tensor([[[0.1], [0.6]]], dtype=torch.float64)
    torch.testing.assert_close(attention.usage(mean, narrow), torch.tensor([[1.0, 0, 1, 0]], dtype=torch.float64))
    edge = attention.usage(torch.full_like(mean, 0.5), torch.full_like(narrow, 1e-4))
    torch.testing.assert_close(edge, torch.tensor([[0.0, 1, 1, 0]], dtype=torch.float64))
    nn.init.constant_(attention.variance.bias, -1e4)
    queries, keys = torch.zeros(1, 2, 1, 4).double(), torch.zeros(1, 2, 4, 4).double()
    assert attention.densities(queries, keys)[1].tolist() == [[[1e-12], [1e-12]]], "no variance of nothing"


def test_basis_functions() -> None:
    centres, widths = signal.basis(4, LIKE)
    # Two a width: the wider ones reach half the gap of 1 between centres, as 1 = 20 * 0.05.
    assert centres.tolist() == [0, 1, 0, 1] and widths.tolist() == pytest.approx([0.2, 0.2, 1.0, 1.0])
    centres, widths = signal.basis(64, LIKE)
    assert len(centres) == 64 and widths.tolist() == pytest.approx([0.01] * 32 + [0.05] * 32)
    assert centres.tolist() == pytest.approx([n / 31 for n in range(32)] * 2)
    assert signal.basis(8, LIKE)[1].tolist() == pytest.approx([0.01 / 0.15] * 4 + [1 / 3] * 4)
    assert signal.basis(8, LIKE.float())[0].dtype == signal.basis(8, LIKE.float())[1].dtype == torch.float32
    density = signal.normal(torch.tensor(1.0), torch.tensor(3.0), torch.tensor(4.0))
    assert float(density) == pytest.approx(math.exp(-0.5) / math.sqrt(8 * math.pi))
    assert signal.midpoints(4, 1, 3, LIKE).tolist() == [1.25, 1.75, 2.25, 2.75]
    assert signal.midpoints(4, 1, 3, LIKE.float()).dtype == torch.float32
    at = torch.tensor([0.2, 0.9], dtype=torch.float64)
    got = signal.evaluate(at, 4)
    assert got.shape == (2, 4) and float(got[0, 2]) == pytest.approx(math.exp(-0.02) / math.sqrt(2 * math.pi))


def test_quantiles() -> None:
    even = signal.quantiles(torch.ones(1, 4, dtype=torch.float64), 3)
    torch.testing.assert_close(even, torch.tensor([[1 / 6, 1 / 2, 5 / 6]], dtype=torch.float64))
    one = signal.quantiles(torch.tensor([[0.0, 8, 0, 0], [0.0, 0, 0, 0]], dtype=torch.float64), 2)
    torch.testing.assert_close(one[0], torch.tensor([0.25 + 0.0625, 0.5 - 0.0625]).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(one[1], torch.tensor([0.25, 0.75]).double(), rtol=0, atol=1e-9)
    unequal = signal.quantiles(torch.tensor([[3.0, 1.0]], dtype=torch.float64), 4)
    expected = torch.tensor([[1 / 12, 3 / 12, 5 / 12, 3 / 4]], dtype=torch.float64)
    torch.testing.assert_close(unequal, expected, rtol=0, atol=1e-5)


def test_all_is_made_where_the_signal_is() -> None:
    """On the device that holds no numbers: what were made elsewhere would not fit."""
    nowhere = LIKE.to("meta")
    made = [*signal.basis(8, nowhere), signal.midpoints(4, 0, 1, nowhere), signal.evaluate(LIKE.to("meta"), 8)]
    made += [signal.quantiles(torch.ones(2, 8, device="meta"), 3)]
    made += [signal.regression(2, 3, 0.75, 8, 0.5, torch.device("meta"))]
    density = torch.ones(2, 2, 5, device="meta")
    made += [SignalAttention(3, 2, 4, 8, 0.05, True).usage(density, density)]
    made += list(memory_of_signals().empty(2, nowhere).tensors.values())
    made += [memory_of_signals().extend(torch.ones(1, 6, 3, device="meta"), torch.ones(1, 2, 3, device="meta"), None)]
    made += list(compressive(compression="most-used").empty(2, nowhere).tensors.values())
    assert {tensor.device.type for tensor in made} == {"meta"}


def test_the_floor_of_what_was_read_keeps_the_integral_rising() -> None:
    got = signal.quantiles(torch.tensor([[0.0, 8, 0, 0]], dtype=torch.float64), 2)
    whole = 1 + 4e-6
    expected = [(1 + (share * whole - 1e-6) / (1 + 1e-6)) / 4 for share in (0.25, 0.75)]
    torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("compression", ["mean", "most-used"])
def test_documents_of_the_tokens_that_enter_alone(compression: str) -> None:
    """Of five tokens three enter: those behind them come again as context."""
    memory = compressive(2, compressed_mem_len=4, compression=compression)
    start = memory.update(memory.empty(1, LIKE), segment(1, 2, usage=[0, 0], documents=[6, 6]), 2)
    after = memory.update(start, segment(3, 4, 5, 98, 99, usage=[1] * 7, documents=[6, 7, 7, 8, 8]), 3)
    assert after.documents is not None and after.documents.tolist() == [[6, 6, 7, 7]] and after.length == 4


def test_a_sticky_memory_is_told_what_was_read() -> None:
    memory = memory_of_signals(long_term_sticky=True)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    usage = torch.tensor([[0.0, 0, 5, 1, 0, 0]], dtype=torch.float64)
    state = memory.empty(1, LIKE)
    for read in (None, None, usage):
        before = state
        state = memory.update(state, SegmentRecord(x, [x, 2 * x], usage=[read, read]), 4)
    for n in (0, 1):
        expected = memory.extend(before.tensors[f"signal{n}"], before.tensors[f"layer{n}"], usage)
        assert torch.equal(state.tensors[f"signal{n}"], expected)
        evenly = memory.extend(before.tensors[f"signal{n}"], before.tensors[f"layer{n}"], None)
        assert (expected - evenly).abs().max() > 1e-3
    queries = torch.randn(1, 2, 5, 3, generator=generator, dtype=torch.float64)
    told = memory.attentions[0](state.tensors["signal0"], queries)
    assert told.usage is not None and told.usage.shape == (1, 6) and not told.usage.requires_grad
    assert 0 < float(told.usage.sum()) <= 2 * 5


@pytest.mark.parametrize("past", [0, 5])
def test_the_smallest_penalty_by_hand(past: int) -> None:
    places = [0.75 * (n + 0.5) / past for n in range(past)]
    start = 0.75 if past else 0.0
    places += [start + (1 - start) * (n + 0.5) / 3 for n in range(3)]
    design = signal.evaluate(torch.tensor(places, dtype=torch.float64), 6)
    largest = max(float(row.abs().sum()) for row in design.T @ design)
    least = signal.smallest_ridge(past, 3, 0.75, 6)
    assert least / (6 * 2.0**-52) == pytest.approx(largest, rel=1e-12)
    assert torch.isfinite(signal.regression(past, 3, 0.75, 6, 2 * least, torch.device("cpu"))).all()
    with pytest.raises(UsageError):
        signal.regression(past, 3, 0.75, 6, least / 2, torch.device("cpu"))
