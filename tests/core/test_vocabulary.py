"""Adaptive input and softmax: one exact distribution, in training, scoring and generation."""

import pytest
import reference_family as reference
import torch
import torch.nn.functional as F
from family import SEGMENT, WORDS, make, pieces, text

from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TIED = {"adaptive_input": True, "adaptive_input_factor": 2.0, "tie_adaptive_weights": True}
CASES = {
    "output only": {},
    "input too": {"adaptive_input": True, "adaptive_input_factor": 2.0},
    "tied": TIED,
    "tied projections": {**TIED, "tie_adaptive_proj": True},
}
every_case = pytest.mark.parametrize("case", sorted(CASES))


@every_case
def test_the_distribution(case: str) -> None:
    head = make("recurrence-adaptive", **CASES[case]).adaptive_head
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # What the weights mean, read off by applying the modules to unit vectors.
    unit = torch.eye(12, dtype=torch.float64)
    first, tails = head.head(unit).detach().T, [tail(unit).detach().T for tail in head.tail]
    got = head.log_probs(x)
    for row in range(3):
        torch.testing.assert_close(got[row], reference.adaptive_log_probs(x[row], first, tails, 9), **EXACT)
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(3, dtype=torch.float64), **EXACT)


@every_case
def test_every_word_is_scored_and_trained(case: str) -> None:
    """Index 1 of the tail clusters too, the words 10 and 16 here, which fairseq's own loss leaves out."""
    decoder = make("recurrence-adaptive", **CASES[case]).train()
    targets = torch.arange(WORDS).expand(2, WORDS)
    tokens = text(2, WORDS)
    log_probs, _ = decoder(tokens, targets=targets)
    full, _ = decoder(tokens)
    torch.testing.assert_close(log_probs, full.gather(2, targets.unsqueeze(2)).squeeze(2), **EXACT)
    for word in (10, 16):
        place = log_probs[:, word].sum()
        gradient = torch.autograd.grad(
            place, decoder.adaptive_head.tail[0 if word < 15 else 1][2].weight, retain_graph=True
        )
        assert gradient[0].abs().max() > 1e-3


@every_case
def test_tied_weights_are_one(case: str) -> None:
    sizes = {
        name: sum(p.numel() for p in make("recurrence-adaptive", **flags).parameters()) for name, flags in CASES.items()
    }
    assert sizes["tied projections"] < sizes["tied"] < sizes["input too"]


def test_temperature_is_exact() -> None:
    """Fairseq divides what the decoder returns by the temperature, and then asks for probabilities."""
    decoder, tokens = make("lookahead-adaptive"), text(2, 7)
    with torch.no_grad():
        plain = decoder.get_normalized_probs(decoder(tokens, incremental_state={}), log_probs=True)[:, -1]
        scores = decoder(tokens, incremental_state={})[0][:, -1:, :].div_(0.7)
        got = decoder.get_normalized_probs((scores, None), log_probs=False)[:, -1]
    expected = plain.exp() ** (1 / 0.7)
    torch.testing.assert_close(got, expected / expected.sum(-1, keepdim=True), **EXACT)


def test_full_and_adaptive_embeddings_agree() -> None:
    """A cluster's rows are its table times its projection."""
    embed = make("lookahead-adaptive").embed_tokens
    ids = torch.arange(WORDS)[None]
    rows = [embed.embeddings[k][0].weight @ embed.embeddings[k][1].weight.T for k in range(3)]
    torch.testing.assert_close(embed(ids)[0], torch.cat(rows), **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    decoder, store = make("lookahead-adaptive", **TIED).float().train(), MemoryStore("test")
    exact, exact_store = make("lookahead-adaptive", **TIED).train(), MemoryStore("exact")
    for k, piece in enumerate(pieces(text(2, 12))):
        with torch.autocast("cpu", dtype=dtype):
            log_probs, _ = decoder(piece, store=store, segment=k, targets=piece)
        assert log_probs.dtype == torch.float32
        (-log_probs.sum()).backward()
        wide, _ = exact(piece, store=exact_store, segment=k, targets=piece)
        # Products are rounded to 8 (bfloat16) or 11 bits; measured: at most 3.4 of these units.
        torch.testing.assert_close(log_probs.double(), wide, rtol=0.0, atol=16 * torch.finfo(dtype).eps)
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters())


def test_the_full_softmax_scores_targets_alike() -> None:
    decoder, tokens = make("lookahead"), text(2, SEGMENT)
    expected = F.log_softmax(decoder(tokens)[0], dim=-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(decoder(tokens, targets=tokens)[0], expected, **EXACT)
