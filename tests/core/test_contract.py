"""What every memory kind must do, whatever it remembers. A new kind is one line in ``family.KINDS``.

float64 throughout, unless a test is about another type: 1e-10 leaves the order of sums a factor of a thousand.
"""

import io
import random
from typing import List, Sequence

import pytest
import torch
from family import KINDS, SEGMENT, make, pieces, read, state_after, text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 0.0, "atol": 1e-10}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


def continue_from(decoder, state: MemoryState, tokens: Tensor) -> Tensor:
    """Scores of segments that continue ``state``."""
    store, outputs = MemoryStore("test"), []
    store.keep(decoder, 0, state)
    for k, piece in enumerate(pieces(tokens), start=1):
        outputs.append(decoder(piece, store=store, segment=k)[0])
    return torch.cat(outputs, dim=1)


@every_kind
def test_nothing_depends_on_what_comes_later(kind: str) -> None:
    decoder, tokens = make(kind), text(1, 30)
    expected = read(decoder, tokens)
    for place in range(1, 30, 3):
        other = tokens.clone()
        other[:, place] = 4 + (other[:, place] - 3) % 19
        got = read(decoder, other)
        torch.testing.assert_close(got[:, :place], expected[:, :place], **EXACT)
        assert (got[:, place] - expected[:, place]).abs().max() > 1e-6  # the change itself is seen


@every_kind
def test_the_memory_is_read(kind: str) -> None:
    decoder, tokens = make(kind), text(1, 30)
    other = tokens.clone()
    other[:, SEGMENT : 2 * SEGMENT] = text(1, SEGMENT, seed=9)
    later = slice(2 * SEGMENT, 3 * SEGMENT)
    difference = (read(decoder, tokens)[:, later] - read(decoder, other)[:, later]).abs().max()
    assert (difference > 1e-6) == (not kind.startswith("none"))


@every_kind
def test_rows_are_independent(kind: str) -> None:
    decoder, tokens = make(kind), text(3, 30)
    together = read(decoder, tokens)
    for row in range(3):
        torch.testing.assert_close(read(decoder, tokens[row : row + 1]), together[row : row + 1], **EXACT)


@every_kind
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_decoding_equals_the_segment(kind: str, seed: int) -> None:
    """Over more than five segments, in random chunks, the beams reordered after each."""
    decoder, draw, tokens = make(kind), random.Random(seed), text(3, 5 * SEGMENT + 3, seed)
    state: dict = {}
    end = 0
    with torch.no_grad():
        while end < tokens.size(1):
            end = min(tokens.size(1), end + draw.randint(1, SEGMENT + 2))
            got = decoder(tokens[:, :end], incremental_state=state)[0][:, -1]
            got = decoder.get_normalized_probs((got, None), log_probs=True)
            torch.testing.assert_close(got, read(decoder, tokens[:, :end])[:, -1], **EXACT)
            order = torch.tensor([draw.randrange(3) for _ in range(3)])
            tokens = tokens[order]
            decoder.reorder_incremental_state(state, order)


@every_kind
def test_streams_of_a_state_can_be_chosen(kind: str) -> None:
    decoder, tokens, following = make(kind), text(3, 20), text(4, 9, seed=1)
    order = torch.tensor([2, 0, 0, 1])
    state = state_after(decoder, tokens).select(order)
    assert state.streams in (0, 4)
    expected = read(decoder, torch.cat([tokens[order], following], dim=1))[:, 20:]
    got = decoder.get_normalized_probs((continue_from(decoder, state, following), None), log_probs=True)
    torch.testing.assert_close(got, expected, **EXACT)


@every_kind
def test_a_saved_state_is_all_that_is_needed(kind: str) -> None:
    """Bit for bit, and in what torch loads without running code."""
    decoder, tokens, following = make(kind).float(), text(2, 20), text(2, 9, seed=1)
    state = state_after(decoder, tokens)
    file = io.BytesIO()
    torch.save({"tensors": dict(state.tensors), "length": state.length, "last_written": state.last_written}, file)
    file.seek(0)
    loaded = MemoryState(**torch.load(file, weights_only=True))
    assert torch.equal(continue_from(decoder, loaded, following), continue_from(decoder, state, following))


@every_kind
def test_a_state_is_detached_and_never_written(kind: str) -> None:
    decoder, tokens = make(kind).train(), text(2, 20)
    state = state_after(decoder, tokens)
    assert not any(tensor.requires_grad for tensor in state.tensors.values())
    before = state.map(torch.clone)
    continue_from(decoder, state, text(2, 9, seed=1))
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, before.tensors[name])


@every_kind
def test_context_windows(kind: str) -> None:
    """Only the first A tokens of a segment enter the memory, and what follows them leaves no trace in it.

    Except in how much the memory was read, where a kind asks for that: the following tokens have read it too.
    """
    decoder, tokens = make(kind), text(2, 30)
    states = []
    for context in (0, 3):
        store, start, number = MemoryStore("test"), 0, 0
        while start + SEGMENT + context <= 30:
            piece = tokens[:, start : start + SEGMENT + context]
            decoder(piece, store=store, segment=number, tokens_to_memory=SEGMENT)
            start, number = start + SEGMENT, number + 1
            if number == 5:
                states.append(store.committed[decoder].state)
    plain, windows = states
    assert (plain.length, plain.last_written) == (windows.length, windows.last_written)
    if decoder.memory.wants_usage(0) or kind == "continuous-sticky":
        assert all(tensor.shape == windows.tensors[name].shape for name, tensor in plain.tensors.items())
        return
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(windows.tensors[name], tensor, **EXACT)


@every_kind
def test_uneven_segments_stay_finite_and_bounded(kind: str) -> None:
    """Segments of uneven length run through, stay finite and keep the memory's size bounded."""
    decoder, draw = make(kind), random.Random(7)
    store, sizes = MemoryStore("test"), []
    for k in range(60):
        length = draw.randint(1, 9)
        scores, _ = decoder(text(2, length, k), store=store, segment=k, tokens_to_memory=draw.randint(0, length))
        assert torch.isfinite(scores).all()
        state = store.committed[decoder].state
        assert state.is_finite()
        sizes.append(sum(tensor.numel() for tensor in state.tensors.values()))
    assert max(sizes[40:]) <= max(sizes[:40])


#: memory types that remember a text alike however it is cut; a new one is free not to
ANY_CUT = {"lookahead", "recurrence", "compressive", "continuous", "none"}
#: what of a kind's state depends on how the text was cut, though the memory holds all of it -> why
CUT_IN_FULL_MEMORY = {
    "lookahead-full": ("output", "lse"),  # a token attends to all that entered in its last refresh, not once to each
    "compressive-used": ("usage",),  # reads are counted per segment that reads
}
#: the same of one layer whose memory is shorter than the text: what leaves is condensed
CUT_IN_SHORT_MEMORY = {
    "compressive-dilated": ("compressed",),  # the convolution sees neighbours that leave together
    "compressive-used": ("compressed",),  # chosen by reads
    "continuous": ("signal",),  # one contraction per segment
    "continuous-sticky": ("signal",),
}


def state_after_cuts(decoder, tokens: Tensor, ends: Sequence[int], context: Sequence[int] = ()) -> MemoryState:
    """The state after segments that end at ``ends``; with ``context`` each reads so many tokens more."""
    store, start = MemoryStore("test"), 0
    for k, end in enumerate(ends):
        more = context[k] if context else 0
        decoder(tokens[:, start : end + more], store=store, segment=k, tokens_to_memory=end - start)
        start = end
    return store.committed[decoder].state


def random_ends(draw: random.Random, last: int) -> List[int]:
    """Three to six segments, of which the last is the text's tokens from 30 to ``last``."""
    return [*sorted(draw.sample(range(1, 30), draw.randint(2, 5))), 30, last]


@pytest.mark.parametrize("kind", sorted(k for k in KINDS if KINDS[k].get("memory_type", "lookahead") in ANY_CUT))
@pytest.mark.parametrize("mem_len", [42, 6], ids=["all-is-held", "one-layer"])
def test_any_cut_is_remembered_alike(kind: str, mem_len: int) -> None:
    """Where a memory holds the whole text, its state does not depend on how that was cut, up to the last segment; of
    one layer also where it does not, but for what is condensed. The exceptions stated above must be ones.

    Look-ahead attention of the second layer reads what the first one's refreshes made, hence two layers at most.
    """
    layers = 1 if mem_len == 6 else 2 if kind.startswith("lookahead") else 3
    changes = {"max_distance": 80} if kind == "recurrence-shaw" else {}
    decoder, tokens, draw = make(kind, decoder_layers=layers, mem_len=mem_len, **changes), text(2, 36), random.Random(3)
    differs = (CUT_IN_SHORT_MEMORY if mem_len == 6 else CUT_IN_FULL_MEMORY).get(kind, ())
    expected = state_after_cuts(decoder, tokens, [6, 12, 18, 24, 30, 36])
    assert kind.startswith("none") or expected.length >= min(36, mem_len)
    seen = set()
    for _ in range(6):
        got = state_after_cuts(decoder, tokens, random_ends(draw, 36))
        assert (got.length, got.last_written) == (expected.length, expected.last_written)
        for name, tensor in expected.tensors.items():
            if not name.startswith(tuple(differs)):
                torch.testing.assert_close(got.tensors[name], tensor, **EXACT)
            elif got.tensors[name].shape != tensor.shape or not torch.allclose(got.tensors[name], tensor, atol=1e-6):
                seen.add(name.rstrip("0123456789"))
    assert seen == set(differs)


@every_kind
def test_uneven_segments_with_context(kind: str) -> None:
    """After equal boundaries memory is equal, whatever followed each segment as context."""
    decoder, tokens, draw = make(kind), text(2, 40), random.Random(4)
    counts_reads = decoder.memory.wants_usage(0) or kind == "continuous-sticky"
    for _ in range(4):
        ends = random_ends(draw, 36)
        expected = state_after_cuts(decoder, tokens, ends)
        got = state_after_cuts(decoder, tokens, ends, [draw.randint(1, 4) for _ in ends])
        for name, tensor in expected.tensors.items():
            assert got.tensors[name].shape == tensor.shape
            if not counts_reads:
                torch.testing.assert_close(got.tensors[name], tensor, **EXACT)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_a_full_memory_is_as_large_as_its_kind_says(kind: str, dtype: torch.dtype) -> None:
    """To the byte: what is really held, at most, by segments of all lengths from 1 to 9."""
    decoder, store, draw = make(kind).to(dtype), MemoryStore("test"), random.Random(5)
    held = []
    for k in range(60):
        decoder(text(2, draw.randint(1, 9), k), store=store, segment=k)
        held.append(store.bytes_held())
    assert max(held) == decoder.memory.full_bytes(2, torch.zeros((), dtype=dtype))


@every_kind
def test_single_precision(kind: str) -> None:
    decoder, tokens = make(kind), text(2, 30)
    exact = read(decoder, tokens)
    # Thirty sums of some dozens of terms, each rounded to 6e-8; the signal's regression magnifies by about ten.
    torch.testing.assert_close(read(decoder.float(), tokens).double(), exact, rtol=0.0, atol=1e-4)


@every_kind
def test_half_precision(kind: str) -> None:
    """bfloat16 errs as it errs without memory, times a few: nothing in a memory depends on its eight bits."""
    tokens = text(2, 30)

    def error(name: str) -> float:
        exact = read(make(name), tokens)
        half = read(make(name).bfloat16(), tokens)
        assert half.dtype == torch.float32 and torch.isfinite(half).all()
        return float((half - exact).detach().pow(2).mean().sqrt())

    assert error(kind) < 4 * error("none-xl")


@every_kind
def test_activation_checkpointing(kind: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        decoder, store = make(kind, checkpoint_activations=checkpointed).train(), MemoryStore("test")
        total = torch.zeros((), dtype=torch.float64)
        for k, piece in enumerate(pieces(text(2, 24))):
            scores, extra = decoder(piece, store=store, segment=k)
            total = total + scores.logsumexp(-1).sum() + scores[..., 5].sum() + sum(extra["losses"].values())
        total.backward()
        gradients.append({name: p.grad for name, p in decoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, f"{name} is never trained"
        assert torch.equal(gradient, gradients[1][name]), name


@every_kind
@pytest.mark.parametrize("beginning", [11, 12, 13])  # of the second document: between what a memory may join, or within
def test_documents_are_kept_apart(kind: str, beginning: int) -> None:
    decoder, tokens = make(kind), text(2, 30)
    documents = (torch.arange(30) >= beginning).long().expand(2, 30)
    if not decoder.memory.separates_documents:
        with pytest.raises(UsageError, match="documents"):
            read(decoder, tokens, documents)
        return
    other = tokens.clone()
    other[:, :beginning] = text(2, beginning, seed=5)
    got, expected = read(decoder, other, documents), read(decoder, tokens, documents)
    torch.testing.assert_close(got[:, beginning:], expected[:, beginning:], **EXACT)
    assert (got[:, :beginning] - expected[:, :beginning]).abs().max() > 1e-6
