"""Decoding, where tests/test_contract.py leaves off: single precision, prompts and single tokens, length, order.

That it equals the segment to 1e-10, in random chunks and orders, is shown there in float64 for every kind.
"""

import pytest
import torch
from family import KINDS, SEGMENT, make, read, text

from lamemo_fairseq.benchmark.count import Counting

every_kind = pytest.mark.parametrize("kind", sorted(KINDS))
# Kinds whose tokens read more than cached keys, and so take the layers' own way.
WHOLE = {"recurrence-shaw", "compressive-used", "continuous", "continuous-sticky"}


def decode(decoder, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    """Log-probabilities after the prompt [B, ., V]: the prompt at once, then single tokens."""
    state: dict = {}
    scores = [decoder(tokens[:, :end], incremental_state=state)[0] for end in range(prompt, tokens.size(1) + 1)]
    return decoder.get_normalized_probs((torch.cat(scores, dim=1), None), log_probs=True)


@every_kind
@torch.no_grad()
def test_single_precision_equals_the_segment(kind: str) -> None:
    """1e-5 on log-probabilities of some nats; the models' weights are small enough for that in float32."""
    decoder, tokens = make(kind, scale=0.15).float(), text(2, 5 * SEGMENT + 2)
    expected = read(decoder, tokens)
    for prompt in (1, 2 * SEGMENT, 3 * SEGMENT + 1, 5 * SEGMENT + 2):
        got = decode(decoder, tokens, prompt)
        torch.testing.assert_close(got, expected[:, prompt - 1 :], rtol=0, atol=1e-5)


@every_kind
@torch.no_grad()
def test_single_tokens_take_the_short_way(kind: str) -> None:
    decoder, state = make(kind), {}
    for end in range(1, 5 * SEGMENT):
        decoder(text(1, 5 * SEGMENT)[:, :end], incremental_state=state)
    (opened,) = state.values()
    assert decoder.can_step(opened) == (kind not in WHOLE)


@torch.no_grad()
def test_only_the_first_token_of_a_segment_reads_the_memory_rows() -> None:
    """Counted, not timed: the others cost no more than their own projections and one row of attention."""
    from torch.utils.flop_counter import FlopCounterMode

    decoder, tokens, costs = make("lookahead", mem_len=64), text(1, 64 + 3 * SEGMENT), []
    opened = decoder.new_segment(1)
    list(decoder.decode_tokens(tokens[:, :64], opened))
    for column in tokens[:, 64:].split(1, dim=1):
        with FlopCounterMode(display=False) as counter:
            list(decoder.decode_tokens(column, opened))
        costs.append(counter.get_total_flops())
    for number, cost in enumerate(costs):
        assert (cost > 20 * min(costs)) == (number % SEGMENT == 0)


@torch.no_grad()
def test_operations_per_token() -> None:
    """Counted, not timed: calls that start work, for one token within a segment behind a full memory."""
    decoder = make("lookahead")
    opened = decoder.new_segment(2)
    list(decoder.decode_tokens(text(2, 4 * SEGMENT + 1), opened))
    list(decoder.decode_tokens(text(2, 1), opened))  # lays out the weights
    token = text(2, 1)
    with Counting() as counting:
        list(decoder.decode_tokens(token, opened))
    # 18 per layer, 6 for what the look-ahead will need of all layers but the last, 3 for embeddings.
    assert counting.counts.launched <= 18 * len(decoder.layers) + 6 * (len(decoder.layers) - 1) + 3


@every_kind
@pytest.mark.parametrize(
    "dtype, device",
    [
        (torch.float32, "cpu"),
        (torch.bfloat16, "cpu"),
        pytest.param(torch.float16, "cuda", marks=pytest.mark.gpu),
        pytest.param(torch.bfloat16, "cuda", marks=pytest.mark.gpu),
    ],
)
@torch.no_grad()
def test_far_beyond_the_segment(kind: str, dtype: torch.dtype, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("float16 is for GPUs, and there is none")
    decoder = make(kind).to(device, dtype)
    opened = decoder.new_segment(2)
    token = torch.full((2, 1), 5, device=device)
    for _ in range(12 * SEGMENT):
        (features,) = decoder.decode_tokens(token, opened)
        scores = decoder.output_layer(features)
        assert torch.isfinite(scores).all()
        token = scores[:, :, 4:].argmax(-1) + 4
    assert opened.tokens_seen == 12 * SEGMENT
    assert all(torch.isfinite(tensor).all() for tensor in opened.state.tensors.values())


@torch.no_grad()
def test_the_identity_order_moves_nothing() -> None:
    decoder, state = make("lookahead"), {}
    decoder(text(3, 2 * SEGMENT + 1), incremental_state=state)
    (opened,) = state.values()
    buffers = [opened.embeddings, *opened.outputs, *opened.lses, *(cache.keys for cache in opened.caches)]
    places = [buffer.tensor.data_ptr() for buffer in buffers if buffer.tensor is not None]
    decoder.reorder_incremental_state(state, torch.arange(3))
    assert places == [buffer.tensor.data_ptr() for buffer in buffers if buffer.tensor is not None]
    decoder.reorder_incremental_state(state, torch.tensor([2, 1]))
    assert opened.embeddings.tensor.size(0) == 2
    torch.testing.assert_close(opened.state.tensors["lse0"].size(0), 2)


@torch.no_grad()
def test_buffers_are_allocated_once_per_segment() -> None:
    decoder, state, places = make("lookahead"), {}, set()
    tokens = text(1, 4 * SEGMENT)
    for end in range(1, 4 * SEGMENT + 1):
        decoder(tokens[:, :end], incremental_state=state)
        (opened,) = state.values()
        places.add((end - 1) // SEGMENT * 10**20 + opened.caches[0].keys.tensor.data_ptr())
    assert len(places) == 4
