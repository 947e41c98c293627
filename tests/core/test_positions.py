"""Masks, distances and the shift that aligns them, entry by entry, against loops over rows and keys."""

import math
from typing import Optional

import pytest
import torch
from torch import Tensor

from lamemo_fairseq.core import positions
from lamemo_fairseq.core.encodings import ENCODINGS, sinusoids
from lamemo_fairseq.core.positions import AttentionGeometry, Positions, ahead_index, align, hide

DIM = 6
LIKE = torch.zeros(1, dtype=torch.float64)
every_encoding = pytest.mark.parametrize("name", [n for n, e in ENCODINGS.items() if e.relative and not e.learned])


def make(name: str = "disentangled", reach: Optional[int] = None, ahead: bool = True, full: bool = False) -> Positions:
    return Positions(ENCODINGS[name](DIM), reach, ahead, full)


def seen(mask: Tensor) -> "list[list[bool]]":
    """Where a mask hides nothing; it holds nothing but 0 and -inf."""
    assert set(mask.flatten().tolist()) <= {0.0, -math.inf}
    return (mask == 0).tolist()


def test_alignment_is_a_view() -> None:
    products = torch.arange(2 * 3 * 5.0).view(2, 3, 5)
    aligned = align(products)
    assert aligned.shape == (2, 3, 4) and aligned.data_ptr() == products[:, 0, 3:].data_ptr()
    for r in range(3):
        for c in range(min(4, 5 - (3 - r))):
            assert torch.equal(aligned[:, r, c], products[:, r, c + 3 - r])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_hidden(dtype: torch.dtype) -> None:
    mask = hide(torch.tensor([[True, False], [False, True]]), dtype)
    assert mask.dtype == dtype and mask.tolist() == [[0, -math.inf], [-math.inf, 0]]


@pytest.mark.parametrize("reach", [None, 1, 3])
@pytest.mark.parametrize("tokens, memory, before", [(1, 0, 0), (4, 0, 0), (3, 5, 0), (2, 5, 3), (1, 0, 4)])
def test_tokens_see_their_past(tokens: int, memory: int, before: int, reach: Optional[int]) -> None:
    got = make(reach=reach, ahead=False).geometry(tokens, memory, 2, LIKE, before=before)
    keys = memory + before + tokens
    expected = [
        [key <= memory + before + n and (reach is None or memory + before + n - key < reach) for key in range(keys)]
        for n in range(tokens)
    ]
    assert seen(got.attn_mask) == expected and got.attn_mask.dtype == torch.float64
    assert got.visible == (keys - tokens if reach is None else 0) and got.ahead is None
    assert (got.encodings is None) == (before > 0)
    if got.encodings is not None:
        wanted = sinusoids(torch.arange(keys, -1, -1, dtype=torch.float64), DIM)
        assert torch.equal(got.encodings, wanted) and torch.equal(got.encodings[got.causal], wanted)
    assert got.causal.stop - got.causal.start == keys + 1


def test_encodings_of_a_segment_that_is_decoded_reach_as_far_as_it_may_grow() -> None:
    got = make(ahead=False).geometry(2, 3, 3, LIKE, capacity=9)
    assert got.encodings is not None and got.encodings.size(0) == 3 + 9 + 1
    # Rows for 5, 4, ... 0 tokens to the left are the last ones.
    assert torch.equal(got.encodings[got.causal], sinusoids(torch.arange(5, -1, -1, dtype=torch.float64), DIM))
    later = make(ahead=False).geometry(1, 3, 3, LIKE, before=2, capacity=9)
    assert later.causal == slice(12 - 6, 13) and later.encodings is None


def documents_of(*numbers: int) -> Tensor:
    return torch.tensor([numbers, [0] * len(numbers)])


@pytest.mark.parametrize("before", [0, 2])
def test_tokens_see_their_document(before: int) -> None:
    documents = documents_of(0, 0, 1, 1, 2, 2, 2)
    got = make(ahead=False).geometry(3 - min(before, 2), 4, 4, LIKE, before=before, documents=documents)
    N = 3 - before
    assert got.attn_mask.shape == (2, 1, N, 7) and got.visible == 0
    for b in range(2):
        for n in range(N):
            at = 7 - N + n
            expected = [key <= at and documents[b, key] == documents[b, at] for key in range(7)]
            assert seen(got.attn_mask)[b][0][n] == expected


CASES = [(1, 1), (2, 1), (5, 2), (5, 3), (5, 5), (6, 3), (7, 3), (5, 9), (9, 1), (20, 12)]


@every_encoding
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("memory, written", CASES)
@pytest.mark.parametrize("block", [2, 8])
def test_memory_sees_what_entered_last(
    monkeypatch: pytest.MonkeyPatch, name: str, full: bool, memory: int, written: int, block: int
) -> None:
    """Row i sees the keys j with max(i, M - A) < j <= M; the encoding that it is given is that of j - i."""
    monkeypatch.setattr(positions, "BLOCK", block)
    tokens, capacity = 3, 4
    made = make(name, full=full)
    for room in (None, capacity):
        got = made.geometry(tokens, memory, written, LIKE, capacity=room)
        ahead, encodings = got.ahead, got.encodings
        assert ahead is not None and encodings is not None
        keys = ahead.keys
        assert keys == min(written, memory)
        key = [memory - keys + 1 + c for c in range(keys)]
        assert seen(ahead.attn_mask) == [[full or k > i for k in key] for i in range(memory)]
        assert ahead.attn_mask.dtype == torch.float64
        rows = min(block, memory)
        assert ahead.index.shape == (-(-memory // rows), rows + keys)
        assert int(ahead.index.min()) >= 0 and int(ahead.index.max()) < encodings.size(0)
        signed = made.encoding.signed
        lengths = torch.arange(memory + (tokens if room is None else room), -memory - 1 if signed else -1, -1).double()
        assert torch.equal(encodings, sinusoids(lengths, DIM))
        for i in range(memory):
            b, r = divmod(i, rows)
            for c, k in enumerate(key):
                if full or k > i:  # as align() takes it: column c of row r stands at c + C - r
                    distance = lengths[ahead.index[b, c + rows - r]]
                    assert distance == ((i - k) if signed else abs(k - i))
        if full or 2 * keys < memory:
            assert ahead.rising is None
        else:
            assert ahead.rising is not None and ahead.rising.shape == (memory + 1,)
            rising = lengths[ahead.rising][:memory].tolist()
            assert rising == [-k if signed else k for k in range(1, memory + 1)]
            assert 0 <= int(ahead.rising[-1]) < len(lengths)


def test_memory_sees_its_document() -> None:
    documents = documents_of(0, 0, 1, 1, 2, 2, 2)
    for full in (False, True):
        got = make(full=full).geometry(3, 4, 3, LIKE, documents=documents).ahead
        assert got is not None and got.attn_mask.shape == (2, 1, 4, 3)
        for b in range(2):
            for i in range(4):
                expected = [(full or k > i) and documents[b, k] == documents[b, i] for k in (2, 3, 4)]
                assert seen(got.attn_mask)[b][0][i] == expected


@pytest.mark.parametrize("memory, before, ahead", [(0, 0, True), (5, 1, True), (5, 0, False)])
def test_where_nothing_is_looked_ahead_at(memory: int, before: int, ahead: bool) -> None:
    got: AttentionGeometry = make("transformer-xl", ahead=ahead).geometry(3, memory, 5, LIKE, before=before)
    assert got.ahead is None
    if before == 0 and not ahead:
        assert got.encodings is not None and got.encodings.size(0) == memory + 3 + 1  # none to the right


def test_a_table_is_given_distances() -> None:
    got = Positions(ENCODINGS["shaw"](DIM, entries=4), None, False, False).geometry(2, 1, 1, LIKE)
    assert got.encodings is not None and got.encodings.tolist() == [3, 2, 1, 0]
    absolute = Positions(ENCODINGS["absolute"](DIM), None, False, False).geometry(2, 0, 0, LIKE)
    assert absolute.encodings is None and absolute.causal == slice(0, 3)


def test_columns_that_no_key_uses_read_some_row() -> None:
    """Of 5 rows in blocks of 2 the last block has one that does not exist."""
    index = ahead_index(5, 2, 8, 0, False, LIKE.device)
    assert index.dtype == torch.int64 and int(index.max()) <= 8 and int(index.min()) >= 0
    signed = ahead_index(5, 2, 8, -5, True, LIKE.device)
    assert int(signed.max()) <= 13 and int(signed.min()) >= 0


@every_encoding
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("with_documents", [False, True])
def test_all_is_made_where_the_model_is(name: str, full: bool, with_documents: bool) -> None:
    """On the device that holds no numbers: what were made elsewhere would not fit."""
    documents = documents_of(0, 0, 1, 1, 2, 2, 2).to("meta") if with_documents else None
    got = make(name, reach=3, full=full).geometry(3, 4, 3, LIKE.to("meta"), documents=documents)
    assert got.ahead is not None and got.encodings is not None
    tensors = [got.attn_mask, got.encodings, got.ahead.attn_mask, got.ahead.index]
    tensors += [] if got.ahead.rising is None else [got.ahead.rising]
    assert len(tensors) == (4 if full else 5)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert hide(torch.ones(2, 2, dtype=torch.bool, device="meta"), torch.float32).device.type == "meta"
