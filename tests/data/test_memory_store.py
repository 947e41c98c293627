"""Which memory a segment continues: that of the segment before it, of as many streams, of the same decoder; or none."""

from typing import Optional

import torch

from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.memory_store import MemoryStore, attach

DECODER, OTHER = object(), object()


def state(streams: int) -> MemoryState:
    """Five hidden states of each stream; of no stream, what a model without memory leaves."""
    tensors = {"embeddings": torch.zeros(streams, 5, 2, dtype=torch.float32)} if streams else {}
    return MemoryState(tensors, 5 if streams else 0, 3 if streams else 0)


def store(streams: int = 2, segment: int = 3) -> MemoryStore:
    made = MemoryStore("valid")
    made.keep(DECODER, segment, state(streams))
    return made


def recalled(made: MemoryStore, segment: int, streams: int, decoder: object = DECODER) -> Optional[MemoryState]:
    return made.recall(decoder, segment, streams)


def test_the_next_segment_continues() -> None:
    made = store()
    left = made.latest(DECODER)
    assert left is not None and left.following == 4 and left.state.streams == 2
    assert recalled(made, 4, 2) is left.state
    assert recalled(made, 4, 2) is left.state  # reading it takes nothing away
    assert recalled(made, 4, 2, OTHER) is None and made.latest(OTHER) is None


def test_any_other_segment_starts_afresh_and_leaves_what_is_kept() -> None:
    made = store()
    for segment in (1, 2, 3, 5, 40):
        assert recalled(made, segment, 2) is None
    assert recalled(made, 4, 2) is not None


def test_another_number_of_streams_starts_afresh() -> None:
    made = store(streams=2)
    for streams in (1, 3, 4):
        assert recalled(made, 4, streams) is None
    assert recalled(made, 4, 2) is not None


def test_a_state_of_nothing_fits_any_number_of_streams() -> None:
    made = store(streams=0)
    for streams in (1, 2, 7):
        assert recalled(made, 4, streams) is not None
    assert recalled(made, 5, 2) is None


def test_the_first_segment_forgets_this_decoders_memory_alone() -> None:
    made = store()
    made.keep(OTHER, 3, state(2))
    assert recalled(made, 0, 2) is None and made.latest(DECODER) is None
    assert recalled(made, 4, 2) is None
    assert recalled(made, 4, 2, OTHER) is not None
    assert recalled(made, 0, 2) is None  # and where there was nothing to forget
    fresh = MemoryStore("valid")
    assert recalled(fresh, 0, 2) is None and recalled(fresh, 1, 2) is None


def test_segment_one_continues_segment_nought() -> None:
    made = store(segment=0)
    assert recalled(made, 1, 2) is not None


def test_what_is_held() -> None:
    made = MemoryStore("valid")
    assert made.name == "valid" and list(made.held()) == [] and made.bytes_held() == 0
    alphas = (torch.ones(2, 1, 5),)
    made.keep(DECODER, 0, state(2), alphas)
    made.keep(OTHER, 0, state(3))
    assert [left.following for left in made.held()] == [1, 1]
    assert made.bytes_held() == (2 + 3) * 5 * 2 * 4
    first, second = made.latest(DECODER), made.latest(OTHER)
    assert first is not None and first.alphas is alphas and second is not None and len(second.alphas) == 0
    made.keep(DECODER, 1, state(2))
    assert made.bytes_held() == (2 + 3) * 5 * 2 * 4


def test_a_batch_with_its_store() -> None:
    made = store()
    batch = {"id": [7], "net_input": {"segment": 4}}
    got = attach(batch, made)
    assert got == {"id": [7], "net_input": {"segment": 4, "store": made}}
    assert batch == {"id": [7], "net_input": {"segment": 4}}, "the batch itself is left alone"
    assert attach({}, made) == {}


def test_segment_nought_continues_what_was_put_before_it_alone() -> None:
    """As where a state is handed in to begin with; what segment 0 left itself is of another pass."""
    given = store(segment=-1)
    left = given.latest(DECODER)
    assert left is not None and recalled(given, 0, 2) is left.state and given.latest(DECODER) is left
    again = store(segment=0)
    assert recalled(again, 0, 2) is None and again.latest(DECODER) is None
