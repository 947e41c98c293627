"""One softmax over what was carried and what is new: its width, its dropout and what it returns."""

import pytest
import torch

from lamemo_fairseq.core.softmax import Attention, attend

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# Of a softmax in float32: sums of 40 terms, each rounded to 6e-8.
SINGLE = {"rtol": 1e-5, "atol": 1e-6}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@HALVES
@pytest.mark.parametrize("continued", [False, True])
def test_scores_of_16_bits_are_summed_in_32(dtype: torch.dtype, continued: bool) -> None:
    scores, values = (3 * noise(2, 3, 5, 40)).to(dtype), noise(2, 3, 40, 4, seed=1).to(dtype)
    old = Attention(noise(2, 3, 5, 4, seed=2).to(dtype), noise(2, 3, 5, seed=3).float()) if continued else None
    got = attend(scores, values, previous_attention=old, want_lse=True)
    exact = scores.double()
    if old is not None:
        exact = torch.cat([old.lse.double().unsqueeze(-1), exact], dim=-1)
    weights = exact.softmax(-1)
    assert got.lse is not None and got.lse.dtype == got.weights.dtype == torch.float32 and got.output.dtype == dtype
    torch.testing.assert_close(got.lse.double(), exact.logsumexp(-1), **SINGLE)
    torch.testing.assert_close(got.weights.double(), weights[..., 1:] if continued else weights, **SINGLE)
    if continued:
        assert got.alpha is not None and got.alpha.dtype == torch.float32
        torch.testing.assert_close(got.alpha.double(), weights[..., 0], **SINGLE)


def test_nothing_is_returned_that_was_not_asked_for() -> None:
    got = attend(noise(1, 1, 3, 4), noise(1, 1, 4, 2))
    assert got.lse is None and got.alpha is None
    torch.testing.assert_close(got.weights.sum(-1), torch.ones(1, 1, 3, dtype=torch.float64))


def test_dropout_falls_on_new_weights_alone() -> None:
    """Values that are unit vectors show the weights: dropped, or scaled by 1 / (1 - p); the carried one stays."""
    torch.manual_seed(0)
    keys, p = 64, 0.25
    scores, values = noise(1, 2, 50, keys), torch.eye(keys, dtype=torch.float64).expand(1, 2, keys, keys)
    old = Attention(torch.full((1, 2, 50, keys), 100.0, dtype=torch.float64), noise(1, 2, 50, seed=1))
    got = attend(scores, values, previous_attention=old, dropout=p)
    assert got.alpha is not None
    mixed = got.output - 100 * got.alpha.unsqueeze(-1)
    kept = mixed.abs() > 1e-9
    torch.testing.assert_close(mixed[kept], (got.weights / (1 - p))[kept], rtol=1e-7, atol=1e-9)
    # 6,400 draws: the share that is kept lies within five standard deviations of 1 - p.
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * (p * (1 - p) / kept.numel()) ** 0.5
    undropped = attend(scores, values, previous_attention=old).output - 100 * got.alpha.unsqueeze(-1)
    torch.testing.assert_close(undropped, got.weights, rtol=1e-7, atol=1e-9)
