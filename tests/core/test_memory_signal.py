"""The memories that condense what grows old, by literal numbers: flags, sizes, what leaves, documents, losses."""

import math
from typing import Any, List, Optional

import pytest
import torch
from torch import Tensor, nn

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import continuous, signal
from lamemo_fairseq.core.memory.base import MemorySizes, MemoryState, SegmentRecord
from lamemo_fairseq.core.memory.compressive import (
    CompressiveMemory,
    CompressiveOptions,
    Convolution,
    Pool,
    dilation,
    most_used,
)
from lamemo_fairseq.core.memory.continuous import ContinuousMemory, ContinuousOptions, SignalAttention

LIKE = torch.zeros(1, dtype=torch.float64)
COMPRESSIONS = ("mean", "max", "conv", "dilated-conv", "most-used")


def sizes(mem_len: int = 4, layers: int = 1, dim: int = 1) -> MemorySizes:
    return MemorySizes(mem_len=mem_len, layers=layers, dim=dim, heads=2, head_dim=3)


def compressive(mem_len: int = 4, layers: int = 1, dim: int = 1, **flags: Any) -> CompressiveMemory:
    options = CompressiveOptions(**flags)
    options.check(mem_len)
    return CompressiveMemory(sizes(mem_len, layers, dim), options).double()


def rows(*numbers: float) -> Tensor:
    """[1, n, 1]."""
    return torch.tensor(numbers, dtype=torch.float64)[None, :, None]


@pytest.mark.parametrize(
    "options, mem_len, line",
    [
        (CompressiveOptions(compression_rate=1), 4, "--compression-rate 1 compresses nothing"),
        (CompressiveOptions(compression_rate=3), 4, "--compression-rate 3 does not divide --mem-len 4"),
        (CompressiveOptions(compressed_mem_len=-1), 4, "--compressed-mem-len -1 is too small"),
        (CompressiveOptions(reconstruction_weight=-0.5), 4, "--reconstruction-weight -0.5 is negative"),
        (ContinuousOptions(long_term_basis=2), 4, "--long-term-basis 2 makes no basis"),
        (ContinuousOptions(long_term_basis=7), 4, "--long-term-basis 7 makes no basis"),
        (ContinuousOptions(long_term_samples=0), 4, "--long-term-samples 0 is too small"),
        (ContinuousOptions(long_term_contraction=0.0), 4, r"--long-term-contraction 0.0 is not in \(0, 1\)"),
        (ContinuousOptions(long_term_contraction=1.0), 4, r"--long-term-contraction 1.0 is not in \(0, 1\)"),
        (ContinuousOptions(long_term_ridge=0.0), 4, "--long-term-ridge 0.0 is not positive"),
        (ContinuousOptions(long_term_sigma=0.0), 4, "--long-term-sigma 0.0 is not positive"),
        (ContinuousOptions(long_term_kl=-0.1), 4, "--long-term-kl -0.1 is negative"),
    ],
)
def test_flags_that_make_no_memory(options: Any, mem_len: int, line: str) -> None:
    with pytest.raises(UsageError, match=f"^{line}"):
        options.check(mem_len)


def test_flags_at_their_limits() -> None:
    for flags in ({"compression_rate": 2}, {"compressed_mem_len": 0}, {"reconstruction_weight": 0.0}):
        CompressiveOptions(**flags).check(4)  # type: ignore[arg-type]
    for more in ({"long_term_basis": 4}, {"long_term_samples": 1}, {"long_term_kl": 0.0}, {"long_term_ridge": 1e-9}):
        ContinuousOptions(**more).check(4)  # type: ignore[arg-type]
    ContinuousOptions(long_term_contraction=0.999, long_term_sigma=1e-9).check(4)
    assert ContinuousOptions(long_term_basis=6).samples == 6
    assert ContinuousOptions(long_term_basis=6, long_term_samples=9).samples == 9
    assert (
        CompressiveOptions().compressed_len(7) == 7 and CompressiveOptions(compressed_mem_len=3).compressed_len(7) == 3
    )


def test_sizes_of_a_compressive_memory() -> None:
    memory = compressive(6, compressed_mem_len=4, compression_rate=3)
    assert (memory.capacity, memory.span) == (6 + 4, 6 + 4 * 3)
    assert memory.full_length("compressed0") == 4 and memory.full_length("layer0") == memory.full_length("usage0") == 8
    names = {name: compressive(compression=name).auxiliary_loss_names for name in COMPRESSIONS}
    assert names == {n: (("reconstruction",) if "conv" in n else ()) for n in COMPRESSIONS}
    assert compressive(reconstruction_weight=0.0).auxiliary_loss_names == ()
    assert compressive(layers=3).wants_usage(0) is False and compressive(compression="most-used").wants_usage(0) is True
    assert [len(compressive(layers=3, compression=name).compressions) for name in COMPRESSIONS] == [3, 3, 3, 3, 0]
    empty = compressive(layers=2, dim=5, compression="most-used").empty(3, LIKE.half())
    assert {n: (tuple(t.shape), t.dtype) for n, t in empty.tensors.items()} == {
        **{f"{n}{layer}": ((3, 0, 5), torch.float16) for n in ("layer", "compressed") for layer in (0, 1)},
        **{f"usage{layer}": ((3, 0), torch.float32) for layer in (0, 1)},
    }
    assert "usage0" not in compressive().empty(3, LIKE).tensors
    assert memory.input_memory(empty, torch.ones(2, 3, 5)).shape == (2, 0, 5)


def test_dilations_reach() -> None:
    assert [dilation(rate) for rate in range(2, 10)] == [3, 2, 3, 2, 5, 2, 3, 2]
    # Taps (c - 1)(dilation - 1) rows further back than a group's own: ceil of that over c groups.
    assert [compressive(rate, compression_rate=rate, compression="dilated-conv").reach for rate in (2, 3, 4, 5, 6)] == [
        1 + math.ceil((rate - 1) * (dilation(rate) - 1) / rate) for rate in (2, 3, 4, 5, 6)
    ]
    assert [compressive(compression=name).reach for name in COMPRESSIONS if name != "dilated-conv"] == [1] * 4
    assert Convolution(2, 4, 3).padding == 6 and Convolution(2, 4, 1).padding == 0
    assert Convolution(2, 4, 3).conv.bias is None


def test_pools() -> None:
    groups = torch.tensor([[[1.0, 8], [2, 6], [6, 7], [0, 0], [0, 3], [9, 3]]])
    assert compressive(3, compression="mean", compression_rate=3).compressions[0](groups).tolist() == [[[3, 7], [3, 2]]]
    assert compressive(3, compression="max", compression_rate=3).compressions[0](groups).tolist() == [[[6, 8], [9, 3]]]
    assert Pool(2, lambda each: each[:, :, 1])(groups).tolist() == [[[2, 6], [0, 0], [9, 3]]]


def test_convolutions_by_their_taps() -> None:
    conv = Convolution(1, 2, 3).double()
    conv.conv.weight.data = torch.tensor([[[10.0, 1.0]]], dtype=torch.float64)
    # The last tap on the group's last row, the other three rows before it, zeros before the first.
    assert conv(rows(1, 2, 3, 4, 5, 6)).flatten().tolist() == [2, 14, 36]
    assert conv(rows(1, 2, 3, 4).half()).dtype == torch.float64


def test_the_most_used() -> None:
    usage = torch.tensor([[1.0, 3, 2, 3, 0, 2], [5.0, 5, 5, 5, 5, 5]])
    assert most_used(usage, 2).tolist() == [[1, 2, 3], [0, 1, 2]] and most_used(usage, 3).tolist() == [[1, 3], [0, 1]]


def segment(*numbers: float, usage: Optional[List[float]] = None, documents: Optional[List[int]] = None) -> Any:
    x = rows(*numbers)
    return SegmentRecord(
        x,
        [x],
        usage=[None if usage is None else torch.tensor([usage], dtype=torch.float64)],
        documents=None if documents is None else torch.tensor([documents]),
    )


def held(state: MemoryState) -> "tuple[list, list]":
    return state.tensors["compressed0"].flatten().tolist(), state.tensors["layer0"].flatten().tolist()


def test_rows_leave_in_whole_groups() -> None:
    memory = compressive(4, compressed_mem_len=3, compression="mean")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3), 3)
    assert held(state) == ([], [1, 2, 3]) and (state.length, state.last_written) == (3, 3)
    state = memory.update(state, segment(4, 5, 99), 2)
    assert held(state) == ([], [1, 2, 3, 4, 5]), "one row waits for another"
    assert (state.length, state.last_written, state.documents) == (5, 2, None)
    assert memory.leaving(state, 0) == 0 and memory.leaving(state, 1) == 2 and memory.leaving(state, 3) == 4
    state = memory.update(state, segment(6, 7, 8, 9, 10, 11), 6)
    assert held(state) == ([1.5, 3.5, 5.5], [7, 8, 9, 10, 11]) and state.length == 8
    state = memory.update(state, segment(12), 1)
    assert held(state) == ([3.5, 5.5, 7.5], [9, 10, 11, 12]) and state.length == 7
    read = memory.recall(state, 0, LIKE)
    assert read.hidden_states.flatten().tolist() == [3.5, 5.5, 7.5, 9, 10, 11, 12]
    assert read.previous_attention is None and read.long_term is None


def test_none_are_kept_where_none_may_be() -> None:
    memory = compressive(2, compressed_mem_len=0, compression="max")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3, 4), 4)
    assert held(state) == ([], [3, 4])


def test_usage_is_summed_and_leaves_with_its_rows() -> None:
    memory = compressive(4, compressed_mem_len=4, compression="most-used")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3, 4, usage=[0] * 4), 4)
    assert state.tensors["usage0"].tolist() == [[0] * 4]
    # Two queries read the four slots; behind them the segment's own keys, which are none of the memory's.
    state = memory.update(state, segment(5, 6, usage=[2, 8, 4, 6, 50, 50]), 2)
    assert held(state) == ([2], [3, 4, 5, 6]) and state.tensors["usage0"].tolist() == [[2, 3, 0, 0]]
    # One compressed row stands before the plain ones now.
    state = memory.update(state, segment(7, 8, usage=[30, 10, 2, 4, 6, 50, 50]), 2)
    assert held(state) == ([2, 3], [5, 6, 7, 8]) and state.tensors["usage0"].tolist() == [[2, 3, 0, 0]]
    assert state.length == 6


def test_documents_of_compressed_rows() -> None:
    """A row of two documents is cleared, whichever it holds more of."""
    memory = compressive(4, compressed_mem_len=3, compression="mean")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3, 4, documents=[0, 0, 0, 1]), 4)
    assert state.documents is not None and state.documents.tolist() == [[0, 0, 0, 1]]
    state = memory.update(state, segment(5, 6, 7, 8, documents=[1, 1, 2, 2]), 4)
    assert state.documents is not None and state.documents.tolist() == [[0, -1, 1, 1, 2, 2]]
    state = memory.update(state, segment(9, 10, 11, 12, documents=[2, 2, 2, 3]), 4)
    assert state.documents is not None and state.documents.tolist() == [[-1, 1, 2, 2, 2, 2, 3]]
    assert state.length == 7


def test_documents_of_rows_that_a_dilation_reaches_into() -> None:
    memory = compressive(2, compressed_mem_len=6, compression="dilated-conv")  # a row holds its group and one before
    assert memory.reach == 2
    numbers = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    state = memory.update(memory.empty(1, LIKE), segment(*range(10), documents=numbers), 10)
    assert state.documents is not None and state.documents.tolist() == [[0, 0, -1, 1, 1, 1]]
    falling = memory.update(memory.empty(1, LIKE), segment(*range(8), documents=[2, 2, 1, 1, 1, 1, 0, 0]), 8)
    assert falling.documents is not None and falling.documents.tolist() == [[2, -1, 1, 0, 0]]


def test_documents_of_rows_that_layers_choose() -> None:
    memory = compressive(2, compressed_mem_len=6, compression="most-used")
    for numbers, expected in (([3, 3, 3, 3], [3, 7, 7]), ([3, 3, 3, 4], [-1, 7, 7]), ([4, 3, 3, 3], [-1, 7, 7])):
        start = memory.update(memory.empty(1, LIKE), segment(1, 2, usage=[0, 0], documents=numbers[:2]), 2)
        after = memory.update(start, segment(3, 4, 5, 6, usage=[1] * 6, documents=[*numbers[2:], 7, 7]), 4)
        assert after.documents is not None
        assert after.documents.tolist() == [[expected[0]] * 2 + expected[1:]]


class ContentAttention:
    """A layer whose content attention adds up what it reads."""

    def content_attention(self, x: Tensor, hidden_states: Tensor) -> Tensor:
        return x * 0 + hidden_states.sum(1, keepdim=True)


def test_the_reconstruction_loss_by_hand() -> None:
    memory = compressive(2, layers=2, reconstruction_weight=0.5)
    for pool in memory.compressions:
        pool.conv.weight.data = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    x = rows(3, 4).requires_grad_()
    record = SegmentRecord(x, [x, 2 * x])
    start = MemoryState({f"{name}{n}": rows(*held) for n in (0, 1) for name, held in (("layer", (1, 2)),)}, 2)
    layers: Any = [ContentAttention(), ContentAttention()]
    # Rows 1 and 2 leave: their sum is 3, their compression 1 * 1 + 2 * 2 = 5, in both layers.
    (name, loss), *more = memory.losses(start, record, 2, layers).items()
    assert (name, more) == ("reconstruction", []) and float(loss.detach()) == 0.5 * 2 * (5 - 3) ** 2
    gradient = torch.autograd.grad(loss, [*memory.parameters(), x], allow_unused=True)
    assert gradient[-1] is None and all(float(g.abs().sum()) > 0 for g in gradient[:-1])
    nothing = memory.losses(start, record, 0, layers)["reconstruction"]
    assert float(nothing.detach()) == 0.0
    assert all(float(g.abs().sum()) == 0 for g in torch.autograd.grad(nothing, list(memory.parameters())))
    # One token enters and one row would leave: no whole group.
    assert float(memory.losses(start, record, 1, layers)["reconstruction"].detach()) == 0.0
    assert compressive(2, compression="mean").losses(start, record, 2, layers) == {}


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


def test_a_signal_begins_when_rows_leave() -> None:
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
