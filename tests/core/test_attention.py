"""One layer's attention by itself: dropout, what is returned, what a probe is shown, the cache of a decoded segment."""

from typing import Any, Optional

import pytest
import torch
from family import KINDS, make, pieces, read, text
from torch import Tensor

from lamemo_fairseq.core.attention import RelativeAttention
from lamemo_fairseq.core.encodings import ENCODINGS, Biases
from lamemo_fairseq.core.kv_cache import Cache
from lamemo_fairseq.core.memory.base import LongTermOutput
from lamemo_fairseq.core.positions import Positions
from lamemo_fairseq.core.softmax import Attention
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 0.0, "atol": 1e-12}
DIM, H, D = 6, 2, 3
LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_is_dropped_but_in_training(kind: str, fused: bool) -> None:
    """With every dropout at a half. A model that is read drops nothing; one that is trained does in each of them."""
    names = ["dropout", "attention_dropout", *(["adaptive_softmax_dropout"] if "adaptive" in kind else [])]
    rest: Any = {"no_fused_kernels": not fused}
    tokens = text(2, 12)
    expected = read(make(kind, **rest), tokens)
    every = make(kind, **rest, **dict.fromkeys(names, 0.5))
    assert torch.equal(read(every, tokens), expected)
    state: dict = {}
    for end in (5, 6, 7, 12):
        decoded = every(tokens[:, :end], incremental_state=state)[0][:, -1:]
        decoded = every.get_normalized_probs((decoded, None), log_probs=True)
        torch.testing.assert_close(decoded[:, 0], expected[:, end - 1], rtol=0.0, atol=1e-10)
    for name in names:
        torch.manual_seed(1)
        trained = read(make(kind, **rest, **{name: 0.5}).train(), tokens)
        assert (trained - expected).abs().max() > 1e-3, name


def layer(dropout: float = 0.0, fused: bool = True, encoding: str = "disentangled") -> RelativeAttention:
    torch.manual_seed(3)
    made = RelativeAttention(DIM, H, D, dropout, ENCODINGS[encoding](DIM, entries=4), fused).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def biases(encoding: str = "disentangled", ahead: bool = True) -> Biases:
    torch.manual_seed(4)
    made = ENCODINGS[encoding](DIM, entries=4).biases(ahead, H, D).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positions(encoding: str = "disentangled", ahead: bool = True) -> Positions:
    return Positions(ENCODINGS[encoding](DIM, entries=4), None, ahead, False)


def earlier(memory: int) -> Attention:
    return Attention(noise(2, H, memory, D, seed=5), noise(2, H, memory, seed=6))


def test_weights_of_a_layer() -> None:
    one = layer(dropout=0.25)
    shapes = {name: tuple(p.shape) for name, p in one.named_parameters()}
    assert shapes == {
        "q_proj.weight": (H * D, DIM),
        "kv_proj.weight": (2 * H * D, DIM),
        "r_proj.weight": (H * D, DIM),
        "out_proj.weight": (DIM, H * D),
    }
    assert (one.heads, one.head_dim, one.dropout, one.fused, one.table) == (H, D, 0.25, True, None)
    assert RelativeAttention(DIM, H, D, 0.0, ENCODINGS["disentangled"](DIM)).fused is True
    assert layer(fused=False).fused is False
    learned = layer(encoding="shaw")
    assert learned.r_proj is None and learned.table is not None and learned.table.embedding.shape == (4, H, D)
    assert layer(encoding="absolute").r_proj is None and layer(encoding="absolute").table is None


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_returned(fused: bool) -> None:
    one, h = layer(fused=fused), noise(2, 7, DIM)
    geometry, plain = positions().geometry(3, 4, 4, LIKE), positions(ahead=False).geometry(3, 4, 4, LIKE)
    read_only = one((h,), 4, plain, biases())
    assert read_only.hidden_states.shape == (2, 3, DIM)
    assert read_only.attention_state is read_only.alpha is read_only.usage is read_only.loss is None
    kept = one((h,), 4, plain, biases(), want_lse=True)
    assert kept.attention_state is not None and kept.attention_state.lse.shape == (2, H, 3)
    assert torch.equal(kept.hidden_states, read_only.hidden_states) and kept.alpha is None
    apart = one((h[:, :4], h[:, 4:]), 4, plain, biases())
    torch.testing.assert_close(apart.hidden_states, read_only.hidden_states, **EXACT)
    assert not kept.attention_state.output.requires_grad and not kept.attention_state.lse.requires_grad
    ahead = one((h,), 4, geometry, biases(), previous_attention=earlier(4), want_lse=True)
    assert ahead.hidden_states.shape == (2, 7, DIM) and ahead.usage is None
    torch.testing.assert_close(ahead.hidden_states[:, 4:], read_only.hidden_states, **EXACT)
    assert ahead.alpha is not None and ahead.alpha.shape == (2, H, 4)
    assert ahead.attention_state is not None and ahead.attention_state.lse.shape == (2, H, 7)
    assert not ahead.attention_state.output.requires_grad
    # Nothing to look ahead from: as without.
    first = positions().geometry(3, 0, 0, LIKE)
    begun = one((h[:, 4:],), 0, first, biases(), previous_attention=earlier(0), want_lse=True)
    assert begun.hidden_states.shape == (2, 3, DIM) and begun.alpha is None


class Seen:
    """A probe that keeps what it is shown."""

    def see(self, weights: Tensor, attn_mask: Tensor, alpha: Optional[Tensor]) -> None:
        self.weights, self.attn_mask, self.alpha = weights, attn_mask, alpha


@pytest.mark.parametrize("fused", [True, False])
def test_a_probe_is_shown_weights_mask_and_alpha(fused: bool) -> None:
    one, h, probe = layer(fused=fused), noise(2, 7, DIM), Seen()
    geometry = positions().geometry(3, 4, 4, LIKE)
    flags: Any = {"previous_attention": earlier(4), "want_lse": True}
    looked = one((h,), 4, geometry, biases(), **flags, probe=probe)
    assert probe.weights.shape == (2, H, 3, 7) and probe.attn_mask is geometry.attn_mask
    torch.testing.assert_close(probe.weights.sum(-1), torch.ones(2, H, 3, dtype=torch.float64), **EXACT)
    assert (probe.weights[:, :, 0, 5:] == 0).all() and probe.alpha is looked.alpha is not None
    torch.testing.assert_close(looked.hidden_states, one((h,), 4, geometry, biases(), **flags).hidden_states, **EXACT)
    plain = positions(ahead=False).geometry(3, 4, 4, LIKE)
    one((h,), 4, plain, biases(), probe=probe)
    assert probe.alpha is None
    values = one.split_keys([one.kv_proj(h)], None)[1]
    mixed = (probe.weights @ values).transpose(1, 2).flatten(2) @ one.out_proj.weight.T
    torch.testing.assert_close(one((h,), 4, plain, biases()).hidden_states, mixed, **EXACT)
    used = one((h,), 4, plain, biases(), want_usage=True)
    assert used.usage is not None and not used.usage.requires_grad
    torch.testing.assert_close(used.usage, probe.weights.mean(1).sum(1), **EXACT)


@pytest.mark.parametrize("fused", [True, False])
def test_what_a_long_term_memory_returns_is_added(fused: bool) -> None:
    one, h = layer(fused=fused), noise(2, 7, DIM)
    plain = positions(ahead=False).geometry(3, 4, 4, LIKE)
    asked: Any = []
    further = LongTermOutput(noise(2, 3, DIM, seed=8), noise(2, 5, seed=9), torch.tensor(4.0))

    def long_term(queries: Tensor) -> LongTermOutput:
        asked.append(queries)
        return further

    got, alone = one((h,), 4, plain, biases(), long_term=long_term), one((h,), 4, plain, biases())
    torch.testing.assert_close(got.hidden_states, alone.hidden_states + further.hidden_states, **EXACT)
    assert got.usage is further.usage and got.loss is further.loss
    queries = (h[:, 4:] @ one.q_proj.weight.T).view(2, 3, H, D).transpose(1, 2) / D**0.5
    torch.testing.assert_close(asked[0], queries, **EXACT)


@pytest.mark.parametrize("encoding", ["disentangled", "transformer-xl", "shaw", "absolute"])
def test_a_segment_in_chunks_reads_what_is_cached(encoding: str) -> None:
    one, h = layer(encoding=encoding), noise(2, 9, DIM)
    at, shared = positions(encoding, ahead=False), biases(encoding, ahead=False)
    whole = one((h,), 4, at.geometry(5, 4, 4, LIKE), shared).hidden_states
    cache = Cache(9)
    found = []
    for before, chunk in ((0, 2), (2, 1), (3, 2)):
        geometry = at.geometry(chunk, 4, 4, LIKE, before=before, capacity=5)
        start = 4 + before if before else 0
        rows = h[:, start : 4 + before + chunk]
        distances = cache.distances
        found.append(one((rows,), 0 if before else 4, geometry, shared, cache=cache).hidden_states)
        assert cache.keys.length == cache.values.length == 4 + before + chunk
        assert before == 0 or cache.distances is distances, "distances are projected once"
    torch.testing.assert_close(torch.cat(found, dim=1), whole, **EXACT)
    assert (cache.distances is None) == (encoding == "absolute")
    assert cache.zero_distance_index == 9 and cache.keys.capacity == cache.values.capacity == 9
    keys, values = one.split_keys([one.kv_proj(h)], None)
    order = torch.tensor([1, 1, 0])
    for chosen in (torch.arange(2), order):
        torch.testing.assert_close(cache.keys.filled(), keys[chosen].transpose(0, 1), **EXACT)
        torch.testing.assert_close(cache.values.filled(), values[chosen].permute(1, 0, 3, 2), **EXACT)
        cache.select(order)
    if cache.distances is not None:
        keys_t, scores = cache.relative(noise(H, 1, D))
        assert torch.equal(keys_t, cache.distances.keys.view(-1, H, D).permute(1, 2, 0)) and keys_t.is_contiguous()
        expected = (keys_t * noise(H, 1, D).mT).sum(1, keepdim=True)  # [H, 1, S]
        if cache.distances.bias is not None:
            expected = expected + cache.distances.bias.t()[:, None] * D**-0.5
        torch.testing.assert_close(scores, expected, **EXACT)
        assert cache.relative(noise(H, 1, D))[0] is keys_t, "they are turned once"


def test_the_path_changes_nothing_where_half_of_the_memory_is_in_sight() -> None:
    """Of 6 slots 5, 3 and 2 entered last: the look-ahead as one operation, at its limit, and in blocks."""
    for written in (5, 3, 2):
        geometry = positions().geometry(3, 6, written, LIKE)
        assert geometry.ahead is not None and (geometry.ahead.rising is None) == (written == 2)
        got = [
            layer(fused=fused)((noise(2, 9, DIM),), 6, geometry, biases(), previous_attention=earlier(6), want_lse=True)
            for fused in (True, False)
        ]
        torch.testing.assert_close(got[0].hidden_states, got[1].hidden_states, **EXACT)
        for one, other in zip(got[0].attention_state, got[1].attention_state):
            torch.testing.assert_close(one, other, **EXACT)


def test_every_layer_drops_for_itself() -> None:
    """Outputs of training differ from pass to pass, and gradients are finite, with memory that looks ahead."""
    decoder, store = make("lookahead", attention_dropout=0.3).train(), MemoryStore("test")
    total = torch.zeros((), dtype=torch.float64)
    for k, piece in enumerate(pieces(text(2, 16))):
        scores, _ = decoder(piece, store=store, segment=k)
        total = total + scores.sum()
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters() if p.grad is not None)
    torch.manual_seed(1)
    one, other = (read(decoder, text(2, 16)) for _ in range(2))
    assert not torch.equal(one, other)


def test_scores_of_learned_distances() -> None:
    """[(q + content)·k + q·embedding_t + bias_t] / sqrt(d), beyond the table its last entry."""
    one, h = layer(encoding="shaw"), noise(1, 7, DIM)
    table = one.table
    assert table is not None
    geometry, probe = positions("shaw", ahead=False).geometry(3, 4, 4, LIKE), Seen()
    one((h,), 4, geometry, biases("shaw", ahead=False), probe=probe)
    q, k = ((h @ w.T).view(7, H, D) for w in (one.q_proj.weight, one.kv_proj.weight[: H * D]))
    for head in range(H):
        for n in range(3):
            scores = []
            for key in range(4 + n + 1):
                t = min(4 + n - key, 3)
                dot = (q[4 + n, head] + table.content[head]) @ k[key, head] + q[4 + n, head] @ table.embedding[t, head]
                scores.append((dot + table.offset[t, head]) / D**0.5)
            expected = torch.stack(scores).softmax(0)
            torch.testing.assert_close(probe.weights[0, head, n, : 4 + n + 1], expected, **EXACT)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("written", [4, 1])
def test_the_look_ahead_drops_too(fused: bool, written: int) -> None:
    """In training alone, in the one operation (of 4 slots) and in blocks (of 1)."""
    one, h = layer(dropout=0.5, fused=fused), noise(2, 7, DIM)
    geometry = positions().geometry(3, 4, written, LIKE)
    flags: Any = {"previous_attention": earlier(4), "want_lse": True}
    plain = layer(fused=fused)((h,), 4, geometry, biases(), **flags).hidden_states
    assert torch.equal(one((h,), 4, geometry, biases(), **flags).hidden_states, plain)
    torch.manual_seed(1)
    dropped = one.train()((h,), 4, geometry, biases(), **flags).hidden_states
    assert (dropped - plain)[:, :4].abs().max() > 1e-3 and (dropped - plain)[:, 4:].abs().max() > 1e-3
