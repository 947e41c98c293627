"""Adaptive embeddings and softmax begin with the very weights that fairseq's modules draw from the same seed."""

from typing import Any, Dict

import pytest
import torch
from fairseq.modules import AdaptiveInput, AdaptiveSoftmax
from torch import Tensor, nn

from lamemo_fairseq.core.vocabulary import AdaptiveEmbedding, AdaptiveHead

WORDS, DIM, PAD = 900, 64, 1
#: one tail cluster, several, and one that is a single word
CUTOFFS = ([300], [100, 400], [50, 200, 899])
FACTORS = (4.0, 2.0, 1.0)
every_size = pytest.mark.parametrize("factor", FACTORS)
every_cut = pytest.mark.parametrize("ends", CUTOFFS, ids=str)


def weights(module: nn.Module) -> Dict[str, Tensor]:
    """All that a checkpoint holds of a module, but for the buffer that fairseq leaves as it was allocated."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("_float_tensor")}


def assert_same(own: nn.Module, theirs: nn.Module) -> None:
    """Names and values, bit for bit."""
    first, second = weights(own), weights(theirs)
    assert list(first) == list(second)
    for name, tensor in second.items():
        assert torch.equal(first[name], tensor), name
    assert own.state_dict().keys() == theirs.state_dict().keys()


def embeddings(ends: Any, factor: float) -> "tuple[AdaptiveEmbedding, AdaptiveInput]":
    """Own and fairseq's, each drawn from the same seed."""
    torch.manual_seed(5)
    own = AdaptiveEmbedding(WORDS, PAD, DIM, factor, ends)
    torch.manual_seed(5)
    return own, AdaptiveInput(WORDS, PAD, DIM, factor, DIM, ends)


@every_cut
@every_size
def test_embeddings_are_drawn_as_fairseqs(ends: Any, factor: float) -> None:
    if ends[-1] == WORDS - 1:  # fairseq writes its pad beyond a cluster of one word, and dies
        with pytest.raises(IndexError):
            embeddings(ends, factor)
        ends = [50, 200, 898]
    own, theirs = embeddings(ends, factor)
    assert_same(own, theirs)
    for number in range(len(ends) + 1):
        table, projection = own.parts(number)
        drawn = torch.cat([table.weight[:PAD], table.weight[PAD + 1 :]])
        assert not table.weight[PAD].any()
        # n draws: a standard deviation is met to within 5 / sqrt(2 n) of itself.
        for weight, wanted in (
            (drawn, table.embedding_dim**-0.5),
            (projection.weight, (2 / (table.embedding_dim + DIM)) ** 0.5),
        ):
            if weight.numel() > 100:
                assert abs(float(weight.detach().std()) / wanted - 1) < 5 * (2 * weight.numel()) ** -0.5, number


@every_cut
@every_size
@pytest.mark.parametrize("tied", ["own", "tied", "tied projections"])
def test_the_softmax_is_drawn_as_fairseqs(ends: Any, factor: float, tied: str) -> None:
    if tied != "own" and ends[-1] == WORDS - 1:
        ends = [50, 200, 898]
    table, inputs = (None, None) if tied == "own" else embeddings(ends, factor)
    projections = tied == "tied projections"
    torch.manual_seed(6)
    own = AdaptiveHead(WORDS, DIM, ends, 0.1, factor, table, projections)
    torch.manual_seed(6)
    theirs = AdaptiveSoftmax(WORDS, DIM, list(ends), 0.1, factor, inputs, projections)
    assert_same(own, theirs)
    for name, weight in own.named_parameters():
        # Uniform within sqrt(6 / (in + out)): no draw beyond, and the largest of many close to it.
        if tied == "own" and weight.numel() > 1000:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert 0.98 * bound < float(weight.detach().abs().max()) <= bound, name
