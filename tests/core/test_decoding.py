"""Decoding, where tests/test_contract.py leaves off: single precision, prompts and single tokens, length, order.

That it equals the segment to 1e-10, in random chunks and orders, is shown there in float64 for every kind.
"""

import pytest
import torch
from family import KINDS, SEGMENT, SIZES, make, read, text

from lamemo_fairseq.benchmark.count import Counting

every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


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
    assert decoder.can_step(opened)


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


#: calls that start work, per layer and token: projections, attention, feed-forward and norms of every kind
CALLS = 17
#: the same beyond CALLS: attention for the look-ahead, reads that are counted, a signal that is read
FURTHER = {"lookahead": 2, "lookahead-none": 0, "compressive-used": 2, "continuous": 21, "continuous-sticky": 33}


def tokens_within_a_segment(decoder, streams: int = 2):
    """Reads single tokens behind a full memory, after one that lays out weights."""
    opened = decoder.new_segment(streams)
    full = -(-decoder.memory.span // SEGMENT) + 1
    list(decoder.decode_tokens(text(streams, full * SEGMENT + 1), opened))
    token = text(streams, 1)
    list(decoder.decode_tokens(token, opened))
    return lambda: list(decoder.decode_tokens(token, opened))


@every_kind
@torch.no_grad()
def test_operations_per_token(kind: str) -> None:
    """Counted, not timed: calls that start work, for one token within a segment behind a full memory."""
    decoder = make(kind)
    read_token = tokens_within_a_segment(decoder)
    with Counting() as counting:
        read_token()
    further = FURTHER.get(kind, FURTHER["lookahead"] if kind.startswith("lookahead") else 0)
    around = 3  # embeddings, their scale, and what went into the layers
    if kind == "none":
        around += 6  # sinusoids of the place
    if kind == "lookahead-adaptive":
        around += 25  # embeddings by cluster
    assert counting.counts.launched <= (CALLS + further) * len(decoder.layers) + around, counting.counts.kernels


@every_kind
@torch.no_grad()
def test_products_per_token(kind: str) -> None:
    """Counted: a token costs its own projections and one row of attention, whatever its memory is made of. Nothing that
    depends on the memory alone is computed again."""
    from torch.utils.flop_counter import FlopCounterMode

    decoder, B = make(kind), 2
    read_token = tokens_within_a_segment(decoder, B)
    with FlopCounterMode(display=False) as counter:
        read_token()
    D, F = SIZES["decoder_embed_dim"], SIZES["decoder_ffn_embed_dim"]
    T = (0 if kind.startswith("none") else decoder.memory.capacity) + SEGMENT
    per_stream = 4 * D * D + 2 * D * F + (2 if kind == "none" else 3) * T * D  # keys, values, distances
    if kind.startswith("continuous"):
        per_stream += decoder.memory.basis_functions * D + 2 * D + D * D  # values, two affine maps, the output
    adaptive = sum(D * width for width in (D, D // 2, D // 4)) if kind == "lookahead-adaptive" else 0  # of embeddings
    assert counter.get_total_flops() <= 2 * B * (len(decoder.layers) * per_stream + adaptive)


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
    buffers = [opened.inputs]
    for part in opened.parts:
        buffers += [part.output, part.lse, part.cache.keys, part.cache.values]
    places = [buffer.tensor.data_ptr() for buffer in buffers if buffer.tensor is not None]
    decoder.reorder_incremental_state(state, torch.arange(3))
    assert places == [buffer.tensor.data_ptr() for buffer in buffers if buffer.tensor is not None]
    decoder.reorder_incremental_state(state, torch.tensor([2, 1]))
    assert opened.inputs.tensor.size(2) == 2
    torch.testing.assert_close(opened.state.tensors["lse0"].size(0), 2)


@torch.no_grad()
def test_buffers_are_allocated_once_per_segment() -> None:
    decoder, state, places = make("lookahead"), {}, set()
    tokens = text(1, 4 * SEGMENT)
    for end in range(1, 4 * SEGMENT + 1):
        decoder(tokens[:, :end], incremental_state=state)
        (opened,) = state.values()
        places.add((end - 1) // SEGMENT * 10**20 + opened.parts[0].cache.keys.tensor.data_ptr())
    assert len(places) == 4
