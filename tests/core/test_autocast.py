"""Autocast makes products of 16 bits; what a memory keeps is computed as without it."""

from typing import Any, Dict, Tuple

import pytest
import torch
from family import KINDS, SEGMENT, make, pieces, text
from torch import Tensor

from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.memory_store import MemoryStore

#: what kinds keep of the lowest layer's inputs, which are embeddings and hence no product
OF_EMBEDDINGS = ("embeddings", "layer0", "compressed0", "signal0")


def read(decoder: Any, autocast: bool) -> Tuple[Tensor, MemoryState]:
    """Log-probabilities [B, ., V] of a text, and the state behind it."""
    store, scores = MemoryStore("test"), []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for k, piece in enumerate(pieces(text(2, 60))):
            scores.append(decoder.get_normalized_probs(decoder(piece, store=store, segment=k), log_probs=True))
    return torch.cat(scores, dim=1), store.committed[decoder].state


def without_memory(kind: str) -> Dict[str, Any]:
    """What a kind's line in the table says of the rest of the model."""
    rest = ("normalize", "adaptive_")
    return {name: value for name, value in KINDS[kind].items() if any(part in name for part in rest)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_memory_keeps_the_same_under_autocast(kind: str) -> None:
    decoder = make(kind).float()
    (scores, state), (exact, expected) = read(decoder, autocast=True), read(decoder, autocast=False)
    # Adaptive embeddings are products themselves; a sticky signal is sampled where queries, which are products, look.
    exactly = not (KINDS[kind].get("adaptive_input") or KINDS[kind].get("long_term_sticky"))
    for name, tensor in state.tensors.items():
        if name in OF_EMBEDDINGS and exactly:
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-6, atol=1e-6, msg=name)
        if name.startswith(("signal", "lse", "usage")):
            assert tensor.dtype == torch.float32, f"{name} is documented as float32 or wider"
        # A product of bfloat16 rounds to 1/512; up to the last layer there are some ten one after another,
        # whose roundings add up as a random walk to 0.6 %, and three times that is not met by chance.
        error = (tensor - expected.tensors[name]).norm() / expected.tensors[name].norm()
        assert error < 0.02, (name, float(error))

    def deviation(one: Tensor, other: Tensor) -> float:
        return float((one - other).pow(2).mean().sqrt())

    plain = make("none-xl", **without_memory(kind)).float()
    # As test_half_precision: what a model errs without a memory, times a few.
    assert deviation(scores, exact) < 4 * deviation(read(plain, True)[0], read(plain, False)[0])


def test_densities_are_no_products_of_16_bits() -> None:
    attention = make("continuous").float().memory.attentions[0]
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(1, 2, 4, attention.head_dim, generator=generator)
    keys = torch.randn(1, 2, attention.basis_functions, attention.head_dim, generator=generator)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = attention.densities(queries, keys)
        products = queries @ keys.transpose(-2, -1)  # these are, as all scores
    with torch.no_grad():
        mean = attention.mean(products.float()).squeeze(-1).sigmoid()
        variance = torch.nn.functional.softplus(attention.variance(products.float()).squeeze(-1))
    for one, other in zip(got, (mean, variance)):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_decoding_under_autocast(kind: str) -> None:
    """Token by token in mixed precision, through the short way too: within twice what whole segments err."""
    decoder, tokens = make(kind).float(), text(2, 3 * SEGMENT + 2)
    exact = torch.cat(list(decoder.decode_tokens(tokens, decoder.new_segment(2))), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        opened = decoder.new_segment(2)
        whole = torch.cat(list(decoder.decode_tokens(tokens, decoder.new_segment(2))), dim=1)
        found = [features for token in tokens.split(1, dim=1) for features in decoder.decode_tokens(token, opened)]
    error = (torch.cat(found, dim=1) - exact).norm()
    assert error < 2 * (whole - exact).norm(), (float(error), float((whole - exact).norm()))
