"""Compression and learned distances against the slow float64 computations of ``reference_family.py``."""

import pytest
import reference_family as reference
import torch
from family import SEGMENT, make, pieces, read, text
from hypothesis import given, settings
from hypothesis import strategies as st

from lamemo_fairseq.core.memory import compressive
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 1e-10, "atol": 1e-10}
few = settings(max_examples=10, deadline=None)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# compressive


@few
@given(rate=st.integers(2, 5), groups=st.integers(1, 4), seed=st.integers(0, 1000))
def test_compression_functions(rate: int, groups: int, seed: int) -> None:
    slots = noise(2, rate * groups, 6, seed=seed)
    usage = noise(2, rate * groups, seed=seed + 1).round(decimals=0)  # with ties
    for dilation in (1, compressive.dilation(rate)):
        conv = compressive.Convolution(6, rate, dilation).double()
        expected = [reference.compress_conv(slot, rate, conv.conv.weight, dilation) for slot in slots]
        torch.testing.assert_close(conv(slots), torch.stack(expected), **EXACT)
    mean = make("compressive-mean", compression_rate=rate, mem_len=rate).memory.compressions[0]
    torch.testing.assert_close(
        mean(slots), torch.stack([reference.compress_mean(slot, rate) for slot in slots]), **EXACT
    )
    most = make("compressive-max", compression_rate=rate, mem_len=rate).memory.compressions[0]
    torch.testing.assert_close(
        most(slots), torch.stack([reference.compress_max(slot, rate) for slot in slots]), **EXACT
    )
    chosen = compressive.most_used(usage, rate)
    for slot, used, places in zip(slots, usage, chosen):
        assert torch.equal(slot[places], reference.compress_most_used(slot, used.tolist(), rate))


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
        # With room for six slots, the four that leave are the oldest ones, and the segment is the newest.
        x = after.tensors[f"layer{number}"][:, -SEGMENT:]
        slots = torch.cat([before.tensors[f"layer{number}"], x], dim=1)[:, :SEGMENT]
        conv = decoder.memory.compressions[number].conv
        Wk, Wv = layer.attention.kv_proj.weight.chunk(2)
        norm = layer.attention_norm if layer.normalize_before else (lambda states: states)
        errors = []
        for b in range(2):
            new = reference.compress_conv(slots[b], 2, conv.weight, conv.dilation[0])
            arguments = (layer.attention.q_proj.weight, Wk, Wv, 2)
            wanted = reference.content_attention(norm(x[b]), norm(slots[b]), *arguments)
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
    """What the most-used slots are chosen by, from the weights of the layer's own attention."""
    decoder, store = make("compressive-used", mem_len=8), MemoryStore("test")
    tokens = text(1, 12)
    for k, piece in enumerate(pieces(tokens)):
        decoder(piece, store=store, segment=k)
    state = store.committed[decoder].state
    layer, slots = decoder.layers[0], decoder.embed(tokens, 0)
    geometry = decoder.positions.geometry(SEGMENT, 8, SEGMENT, slots)
    q = layer.attention.split(layer.attention.q_proj(slots[:, 8:])) * layer.attention.head_dim**-0.5
    keys = layer.attention.split(layer.attention.kv_proj(slots).chunk(2, -1)[0])
    distances = layer.attention.project_distances(geometry, None)
    weights = layer.attention.causal_scores(q, keys, distances, geometry, decoder.biases).softmax(-1)
    expected = weights.mean(1).mean(1)[:, 4:8]  # of slots 4 to 7, which were read by the third segment only
    torch.testing.assert_close(state.tensors["usage0"][:, :4], expected, **EXACT)


@pytest.mark.parametrize("rate", range(2, 9))
def test_a_dilated_compression_passes_over_no_slot(rate: int) -> None:
    """But for the last slots of what leaves together, whose taps would stand in groups to come."""
    decoder = make("compressive-dilated", compression_rate=rate, mem_len=rate)
    conv = decoder.memory.compressions[0]
    slots = noise(1, 10 * rate * rate, 12).requires_grad_()
    conv(slots).pow(2).sum().backward()
    seen = slots.grad[0].abs().sum(-1) > 0
    assert seen[: -conv.padding].all()
    # And no compressed slot holds anything of more groups than are checked for documents.
    slots = noise(1, 10 * rate * rate, 12).requires_grad_()
    conv(slots)[0, -1].sum().backward()
    first = int(slots.grad[0].abs().sum(-1).nonzero()[0])
    assert decoder.memory.reach == 10 * rate - first // rate


# continuous


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
    slots = decoder.embed(tokens, 0)[:, -6 - SEGMENT :]
    Wk, Wv = attention.kv_proj.weight.chunk(2)
    table = (attention.table.content, attention.table.embedding, attention.table.offset)
    for b in range(2):
        expected = reference.shaw_attention(slots[b], 6, attention.q_proj.weight, Wk, Wv, *table)
        torch.testing.assert_close(seen["heads"][b], expected, **EXACT)
