"""States and queues of rows by literal numbers: what every memory kind is made of."""

import math
from typing import Optional

import pytest
import torch
from torch import Tensor

from lamemo_fairseq.core.memory.base import Memory, MemoryOptions, MemorySizes, MemoryState, SegmentRecord, option
from lamemo_fairseq.core.memory.lookahead import LookAheadMemory, LookAheadOptions
from lamemo_fairseq.core.memory.none import NoMemory
from lamemo_fairseq.core.memory.recurrence import RecurrenceMemory
from lamemo_fairseq.core.softmax import Attention

SIZES = MemorySizes(mem_len=4, layers=3, dim=2, heads=1, head_dim=5)
LIKE = torch.zeros(1, dtype=torch.float64)


class Plain(Memory):
    """The shared part of a kind, with a state of one tensor that grows."""

    name = "plain"

    def empty(self, streams: int, like: Tensor) -> MemoryState:
        return MemoryState({"rows": like.new_zeros(streams, 0, self.dim), "fixed": like.new_zeros(streams, 3)})


def plain() -> Plain:
    return Plain(SIZES, MemoryOptions())


def state(documents: bool = False, last: bool = False, dtype: torch.dtype = torch.float64) -> MemoryState:
    return MemoryState(
        {"rows": torch.tensor([[1, 2], [3, 4], [5, 6]]).to(dtype), "more": torch.tensor([[7], [8], [9]]).to(dtype)},
        2,
        1,
        torch.tensor([[0, 1], [2, 3], [4, 5]]) if documents else None,
        torch.tensor([10, 11, 12]) if last else None,
    )


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_a_state_in_another_order(documents: bool, last: bool) -> None:
    got = state(documents, last).select(torch.tensor([2, 0, 0, 1]))
    assert {name: tensor.tolist() for name, tensor in got.tensors.items()} == {
        "rows": [[5, 6], [1, 2], [1, 2], [3, 4]],
        "more": [[9], [7], [7], [8]],
    }
    assert (got.length, got.last_written, got.streams) == (2, 1, 4)
    assert documents == (got.documents is not None) and last == (got.last is not None)
    if got.documents is not None:
        assert got.documents.tolist() == [[4, 5], [0, 1], [0, 1], [2, 3]]
    if got.last is not None:
        assert got.last.tolist() == [12, 10, 10, 11]


def test_a_state_in_other_types() -> None:
    other = MemoryState({"rows": LIKE.float(), "more": LIKE.bfloat16()})
    for documents in (False, True):
        got = state(documents, last=True).like(other)
        assert got.tensors["rows"].dtype == torch.float32 and got.tensors["more"].dtype == torch.bfloat16
        assert got.tensors["rows"].tolist() == [[1, 2], [3, 4], [5, 6]] and (got.length, got.last_written) == (2, 1)
        assert documents == (got.documents is not None)
        if got.documents is not None:
            assert got.documents.dtype == torch.int64 and got.documents.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert got.last is not None
    meta = MemoryState({"rows": LIKE.to("meta"), "more": LIKE.to("meta")})
    moved = state(documents=True).like(meta)
    assert moved.documents is not None and moved.documents.device.type == "meta"
    nothing = MemoryState({}, documents=torch.tensor([[1]])).like(MemoryState({}))
    assert nothing.documents is not None and nothing.documents.tolist() == [[1]] and nothing.tensors == {}


def test_streams_and_finite_values() -> None:
    assert MemoryState({}).streams == 0 and state().streams == 3 and MemoryState({}).is_finite() is True
    assert (MemoryState({}).length, MemoryState({}).last_written) == (0, 0)
    assert state().is_finite() is True
    for bad in (math.nan, math.inf, -math.inf):
        for name in ("rows", "more"):
            wrong = state()
            wrong.tensors[name][1, 0] = bad
            assert wrong.is_finite() is False


def test_flags_of_a_kind() -> None:
    made = option(3, "what it does", choices=["a", "b"])
    assert made.default == 3 and made.metadata == {"help": "what it does", "choices": ("a", "b")}
    assert option(3, "x").metadata["choices"] == ()
    memory = plain()
    assert memory.made_with == {"memory_type": "plain", "mem_len": "4"}
    assert (memory.mem_len, memory.layers, memory.dim, memory.heads, memory.head_dim) == (4, 3, 2, 1, 5)
    full = LookAheadMemory(SIZES, LookAheadOptions("full"))
    assert full.made_with == {
        "memory_type": "lookahead",
        "mem_len": "4",
        "look_ahead": "full",
        "detach_memory": "False",
    }
    assert full.looks_both_ways is True and LookAheadMemory(SIZES, LookAheadOptions()).looks_both_ways is False


def test_what_a_kind_leaves_out() -> None:
    memory = plain()
    assert memory.capacity == memory.span == memory.full_length("rows") == 4
    assert memory.looks_both_ways is False and memory.auxiliary_loss_names == ()
    assert memory.wants_attention(0) is False and memory.wants_usage(0) is False
    assert memory.losses(state(), SegmentRecord(LIKE), 1, []) == {}


@pytest.mark.parametrize("dtype, size", [(torch.float64, 8), (torch.float16, 2)])
def test_bytes_of_a_full_memory(dtype: torch.dtype, size: int) -> None:
    """A tensor's growing dimension is the one that is empty at first."""
    assert plain().full_bytes(3, LIKE.to(dtype)) == 3 * (4 * 2 + 3) * size
    lookahead = LookAheadMemory(SIZES, LookAheadOptions())
    # Log-sum-exps of two layers are float32 or wider.
    assert lookahead.full_bytes(2, LIKE.to(dtype)) == 2 * 4 * ((2 + 2 * 5) * size + 2 * max(size, 4))
    assert NoMemory(SIZES, MemoryOptions()).full_bytes(2, LIKE) == 0
    assert RecurrenceMemory(SIZES, MemoryOptions()).full_bytes(2, LIKE.to(dtype)) == 2 * 4 * 3 * 2 * size


def rows(*numbers: float) -> Tensor:
    """[1, n, 1]."""
    return torch.tensor(numbers, dtype=torch.float64)[None, :, None]


@pytest.mark.parametrize("dim", [1, 2])
def test_first_in_first_out(dim: int) -> None:
    memory = plain()  # of four slots
    for old, new, entering, expected in (
        ([], [1], 1, [1]),
        ([], [1, 2, 3], 2, [1, 2]),
        ([1, 2], [3], 1, [1, 2, 3]),
        ([1, 2], [3, 4], 0, [1, 2]),
        ([1, 2, 3, 4], [5, 6, 7], 2, [3, 4, 5, 6]),
        ([1, 2, 3, 4], [5, 6, 7, 8, 9], 5, [6, 7, 8, 9]),
        ([1, 2, 3], [5, 6, 7, 8, 9, 10], 5, [6, 7, 8, 9]),
        ([1, 2, 3], [5, 6, 7, 8], 4, [5, 6, 7, 8]),
    ):
        before, after = rows(*old).requires_grad_(), rows(*new).requires_grad_()
        if dim == 2:
            before, after = before.transpose(1, 2), after.transpose(1, 2)
        with torch.no_grad():
            before = before.clone()
        got = memory.push(before, after, entering, dim=dim) if dim == 2 else memory.push(before, after, entering)
        assert got.flatten().tolist() == expected and not got.requires_grad


def record(tokens: int, documents: Optional[Tensor]) -> SegmentRecord:
    return SegmentRecord(LIKE.new_zeros(2, tokens, 2), documents=documents)


def test_document_numbers_follow_their_rows() -> None:
    memory, held = plain(), torch.tensor([[3, 3, 4], [1, 1, 1]])
    new = torch.tensor([[4, 5, 5], [1, 2, 3]])
    none, some = MemoryState({}, 3), MemoryState({}, 3, documents=held)
    assert memory.join_documents(none, record(3, None), 2) is None
    assert memory.push_documents(none, record(3, None), 2) is None
    for before, now, joined in (
        (some, new, [[3, 3, 4, 4, 5], [1, 1, 1, 1, 2]]),
        (none, new, [[0, 0, 0, 4, 5], [0, 0, 0, 1, 2]]),
        (some, None, [[3, 3, 4, 0, 0], [1, 1, 1, 0, 0]]),
    ):
        got, pushed = (f(before, record(3, now), 2) for f in (memory.join_documents, memory.push_documents))
        assert got is not None and got.tolist() == joined and got.dtype == torch.int64
        assert pushed is not None and pushed.tolist() == [row[-4:] for row in joined]
    short = memory.push_documents(MemoryState({}, 1, documents=held[:, :1]), record(3, new), 2)
    assert short is not None and short.tolist() == [[3, 4, 5], [1, 1, 2]]


def test_a_look_ahead_memory_keeps_what_it_gathered() -> None:
    """Of two layers of three: refreshed slots, then the tokens that enter; outputs [B, H, n, d] and their lse."""
    memory = LookAheadMemory(MemorySizes(mem_len=4, layers=3, dim=1, heads=1, head_dim=1), LookAheadOptions())
    empty = memory.empty(2, LIKE.half())
    assert {n: (tuple(t.shape), t.dtype) for n, t in empty.tensors.items()} == {
        "embeddings": ((2, 0, 1), torch.float16),
        **{f"output{layer}": ((2, 1, 0, 1), torch.float16) for layer in (0, 1)},
        **{f"lse{layer}": ((2, 1, 0), torch.float32) for layer in (0, 1)},
    }
    assert (empty.length, empty.last_written, empty.documents) == (0, 0, None)
    assert [memory.wants_attention(layer) for layer in range(3)] == [True, True, False]

    def gathered(first: float, count: int) -> Attention:
        output = torch.arange(first, first + count, dtype=torch.float64)[None, None, :, None].requires_grad_()
        return Attention(output, output[..., 0] + 100)

    def segment(first: float, held: int, count: int) -> SegmentRecord:
        attention = [gathered(first - held + 1000, held + count), gathered(first - held + 2000, held + count), None]
        numbers = torch.full((1, count), int(first))
        return SegmentRecord(rows(*[first + n for n in range(count)]), [], attention, documents=numbers)

    state = memory.update(memory.empty(1, LIKE), segment(1, 0, 3), 3)
    state = memory.update(state, segment(4, 3, 3), 2)  # of three tokens two enter, and one slot leaves
    assert (state.length, state.last_written) == (4, 2)
    assert state.tensors["embeddings"].flatten().tolist() == [2, 3, 4, 5]
    for layer in (0, 1):
        expected = [1000 * (layer + 1) + n for n in (2, 3, 4, 5)]
        assert state.tensors[f"output{layer}"].flatten().tolist() == expected
        assert state.tensors[f"lse{layer}"].flatten().tolist() == [n + 100 for n in expected]
    assert set(state.tensors) == set(empty.tensors) and not any(t.requires_grad for t in state.tensors.values())
    assert state.documents is not None and state.documents.tolist() == [[1, 1, 4, 4]]
    assert memory.input_memory(state, LIKE) is state.tensors["embeddings"]
    hidden = rows(9)
    read, last = memory.recall(state, 1, hidden), memory.recall(state, 2, hidden)
    assert read.hidden_states is hidden and last.hidden_states is hidden and last.previous_attention is None
    assert read.previous_attention is not None and read.previous_attention.output is state.tensors["output1"]
    assert read.previous_attention.lse is state.tensors["lse1"] and read.long_term is None
    kept = read.cached()
    assert kept.hidden_states.shape == (1, 0, 1) and kept.previous_attention is None


def test_recurrence_keeps_the_inputs_of_each_layer_and_their_documents() -> None:
    memory = RecurrenceMemory(MemorySizes(mem_len=3, layers=2, dim=1, heads=1, head_dim=1), MemoryOptions())
    state = memory.empty(1, LIKE)
    assert {name: tuple(t.shape) for name, t in state.tensors.items()} == {"layer0": (1, 0, 1), "layer1": (1, 0, 1)}
    for first, number in ((1, 4), (3, 5)):
        inputs = [rows(first, first + 1), rows(10 * first, 10 * first + 10)]
        state = memory.update(state, SegmentRecord(inputs[0], inputs, documents=torch.tensor([[number, number]])), 2)
    assert state.tensors["layer0"].flatten().tolist() == [2, 3, 4]
    assert state.tensors["layer1"].flatten().tolist() == [20, 30, 40]
    assert (state.length, state.last_written) == (3, 2)
    assert state.documents is not None and state.documents.tolist() == [[4, 5, 5]]
    assert memory.recall(state, 1, LIKE).hidden_states is state.tensors["layer1"]
    assert memory.input_memory(state, torch.ones(2, 5, 1)).shape == (2, 0, 1)


def test_slots_that_are_recomputed_without_a_look_ahead() -> None:
    memory = LookAheadMemory(SIZES, LookAheadOptions("none"))
    state = memory.empty(2, LIKE)
    assert set(state.tensors) == {"embeddings"} and memory.recomputes and not memory.looks_ahead
    assert [memory.recall(state, layer, rows(1)).recomputed for layer in range(3)] == [True, True, False]
    looking = LookAheadMemory(SIZES, LookAheadOptions())
    read = looking.recall(looking.empty(2, LIKE), 0, rows(1))
    assert looking.looks_ahead and not looking.recomputes and not read.recomputed
