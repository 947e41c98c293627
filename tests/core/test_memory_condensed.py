"""The compressive memory by literal numbers: flags, sizes, what leaves, documents, losses."""

import math
from typing import Any, List, Optional

import pytest
import torch
from torch import Tensor

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory.base import MemorySizes, MemoryState, SegmentRecord
from lamemo_fairseq.core.memory.compressive import (
    CompressiveMemory,
    CompressiveOptions,
    Convolution,
    Pool,
    dilation,
    most_used,
)
from lamemo_fairseq.core.memory.continuous import ContinuousOptions

LIKE = torch.zeros(1, dtype=torch.float64)
COMPRESSIONS = ("mean", "max", "conv", "dilated-conv", "most-used")


def sizes(mem_len: int = 4, layers: int = 1, dim: int = 1) -> MemorySizes:
    return MemorySizes(mem_len=mem_len, layers=layers, dim=dim, heads=2, head_dim=3)


def compressive(mem_len: int = 4, layers: int = 1, dim: int = 1, **flags: Any) -> CompressiveMemory:
    options = CompressiveOptions(**flags)
    options.check(mem_len)
    return CompressiveMemory(sizes(mem_len, layers, dim), options).double()


def slots(*numbers: float) -> Tensor:
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
    # Taps (c - 1)(dilation - 1) slots further back than a group's own: ceil of that over c groups.
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
    # The last tap on the group's last slot, the other three slots before it, zeros before the first.
    assert conv(slots(1, 2, 3, 4, 5, 6)).flatten().tolist() == [2, 14, 36]
    assert conv(slots(1, 2, 3, 4).half()).dtype == torch.float64


def test_the_most_used() -> None:
    usage = torch.tensor([[1.0, 3, 2, 3, 0, 2], [5.0, 5, 5, 5, 5, 5]])
    assert most_used(usage, 2).tolist() == [[1, 2, 3], [0, 1, 2]] and most_used(usage, 3).tolist() == [[1, 3], [0, 1]]


def segment(*numbers: float, usage: Optional[List[float]] = None, documents: Optional[List[int]] = None) -> Any:
    x = slots(*numbers)
    return SegmentRecord(
        x,
        [x],
        usage=[None if usage is None else torch.tensor([usage], dtype=torch.float64)],
        documents=None if documents is None else torch.tensor([documents]),
    )


def held(state: MemoryState) -> "tuple[list, list]":
    return state.tensors["compressed0"].flatten().tolist(), state.tensors["layer0"].flatten().tolist()


def test_slots_leave_in_whole_groups() -> None:
    memory = compressive(4, compressed_mem_len=3, compression="mean")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3), 3)
    assert held(state) == ([], [1, 2, 3]) and (state.length, state.last_written) == (3, 3)
    state = memory.update(state, segment(4, 5, 99), 2)
    assert held(state) == ([], [1, 2, 3, 4, 5]), "one slot waits for another"
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
    # One compressed slot stands before the plain ones now.
    state = memory.update(state, segment(7, 8, usage=[30, 10, 2, 4, 6, 50, 50]), 2)
    assert held(state) == ([2, 3], [5, 6, 7, 8]) and state.tensors["usage0"].tolist() == [[2, 3, 0, 0]]
    assert state.length == 6


def test_documents_of_compressed_rows() -> None:
    """A slot of two documents is cleared, whichever it holds more of."""
    memory = compressive(4, compressed_mem_len=3, compression="mean")
    state = memory.update(memory.empty(1, LIKE), segment(1, 2, 3, 4, documents=[0, 0, 0, 1]), 4)
    assert state.documents is not None and state.documents.tolist() == [[0, 0, 0, 1]]
    state = memory.update(state, segment(5, 6, 7, 8, documents=[1, 1, 2, 2]), 4)
    assert state.documents is not None and state.documents.tolist() == [[0, -1, 1, 1, 2, 2]]
    state = memory.update(state, segment(9, 10, 11, 12, documents=[2, 2, 2, 3]), 4)
    assert state.documents is not None and state.documents.tolist() == [[-1, 1, 2, 2, 2, 2, 3]]
    assert state.length == 7


def test_documents_of_slots_that_a_dilation_reaches_into() -> None:
    memory = compressive(2, compressed_mem_len=6, compression="dilated-conv")  # a slot holds its group and one before
    assert memory.reach == 2
    numbers = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    state = memory.update(memory.empty(1, LIKE), segment(*range(10), documents=numbers), 10)
    assert state.documents is not None and state.documents.tolist() == [[0, 0, -1, 1, 1, 1]]
    falling = memory.update(memory.empty(1, LIKE), segment(*range(8), documents=[2, 2, 1, 1, 1, 1, 0, 0]), 8)
    assert falling.documents is not None and falling.documents.tolist() == [[2, -1, 1, 0, 0]]


def test_documents_of_slots_that_layers_choose() -> None:
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
    x = slots(3, 4).requires_grad_()
    record = SegmentRecord(x, [x, 2 * x])
    start = MemoryState({f"{name}{n}": slots(*held) for n in (0, 1) for name, held in (("layer", (1, 2)),)}, 2)
    layers: Any = [ContentAttention(), ContentAttention()]
    # Rows 1 and 2 leave: their sum is 3, their compression 1 * 1 + 2 * 2 = 5, in both layers.
    (name, loss), *more = memory.losses(start, record, 2, layers).items()
    assert (name, more) == ("reconstruction", []) and float(loss.detach()) == 0.5 * 2 * (5 - 3) ** 2
    gradient = torch.autograd.grad(loss, [*memory.parameters(), x], allow_unused=True)
    assert gradient[-1] is None and all(float(g.abs().sum()) > 0 for g in gradient[:-1])
    nothing = memory.losses(start, record, 0, layers)["reconstruction"]
    assert float(nothing.detach()) == 0.0
    assert all(float(g.abs().sum()) == 0 for g in torch.autograd.grad(nothing, list(memory.parameters())))
    # One token enters and one slot would leave: no whole group.
    assert float(memory.losses(start, record, 1, layers)["reconstruction"].detach()) == 0.0
    assert compressive(2, compression="mean").losses(start, record, 2, layers) == {}
