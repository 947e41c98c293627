"""What evaluation gives each target is what the slow reference gives it, however the work is cut."""

from dataclasses import replace
from typing import Dict

import pytest
import torch
from bridge import build, dictionary_of
from fairseq.sequence_scorer import SequenceScorer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ReferenceConfig, Weights, stream_nll
from reference_weights import random_weights
from scoring_helpers import ignore, losses, random_text, reference_losses, text_of

from lamemo_fairseq.core.probe import BINS, Probe
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.evaluation.plan import EvaluationPlan
from lamemo_fairseq.evaluation.scoring import score_batches
from lamemo_fairseq.plugin.model import LaMemoLanguageModel

SMALL = ReferenceConfig(vocab_size=11, layers=2, heads=2, head_dim=4, model_dim=6, ffn_dim=10, mem_len=5)
VARIANTS: Dict[str, Dict[str, object]] = {
    "lamemo": {},
    "lamemo_xl_encoding": {"encoding": "transformer-xl"},
    "lamemo_disentangled_v2": {"encoding": "disentangled-v2"},
    "lamemo_full": {"look_ahead": "full"},
    "lamemo_clamp_same_length": {"clamp_len": 3, "same_length": True},
    "transformer_xl": {"memory": "recurrence", "encoding": "transformer-xl"},
    "absolute": {"memory": "none", "encoding": "absolute"},
    "no_memory": {"memory": "none", "encoding": "transformer-xl"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)

# Both sides compute in float64: what is left are roundings of sums of a few hundred terms, 1e-16 each.
EXACT = {"atol": 1e-11, "rtol": 0.0}


def model_of(cfg: ReferenceConfig, weights: Weights) -> LaMemoLanguageModel:
    """The package's model with the reference's weights."""
    return LaMemoLanguageModel(build(cfg, weights))


@variants
@settings(max_examples=8, deadline=None)
@given(
    total=st.integers(1, 30),
    rows=st.integers(1, 3),
    tokens=st.integers(1, 7),
    context=st.integers(0, 6),
    warmup=st.none() | st.integers(0, 9),
)
def test_every_loss_is_the_references(variant, total, rows, tokens, context, warmup) -> None:
    cfg = replace(SMALL, **VARIANTS[variant])
    weights, dictionary = random_weights(cfg), dictionary_of(cfg.vocab_size)
    text = random_text(total, cfg.vocab_size)
    plan = EvaluationPlan(tokens, context, rows, cfg.capacity, warmup)
    found, tally = losses(model_of(cfg, weights), text, plan, dictionary)
    expected = reference_losses(cfg, weights, text, plan, dictionary.eos())
    torch.testing.assert_close(found, expected, **EXACT)
    assert tally.score.scored == tally.score.targets == total
    assert tally.score.nats == pytest.approx(float(expected.sum()), rel=1e-12)


def test_a_window_without_memory_is_plain_sliding_window_evaluation() -> None:
    cfg = replace(SMALL, memory="none", encoding="transformer-xl")
    weights, dictionary = random_weights(cfg), dictionary_of(cfg.vocab_size)
    text, window, new = random_text(40, cfg.vocab_size), 5, 3
    found, _ = losses(model_of(cfg, weights), text, EvaluationPlan(new, window), dictionary)
    tokens = torch.cat([torch.tensor([dictionary.eos()]), text.span(0, text.total)])
    for first in range(0, text.total, new):
        begin, end = max(0, first - window), min(first + new, text.total)
        alone = stream_nll(cfg, weights, tokens[None, begin : end + 1], [end - begin])[0, first - begin :]
        torch.testing.assert_close(found[first:end], alone, **EXACT)


@pytest.mark.parametrize("variant", ["lamemo", "transformer_xl"])
def test_shards_together_are_the_whole(variant: str) -> None:
    cfg = replace(SMALL, **VARIANTS[variant])
    dictionary, text = dictionary_of(cfg.vocab_size), random_text(61, cfg.vocab_size)
    model = model_of(cfg, random_weights(cfg))
    whole, tally = losses(model, text, EvaluationPlan(4, 2, streams=6, memory=5), dictionary)
    parts = [
        losses(model, text, EvaluationPlan(4, 2, streams=2, memory=5, shards=3, shard=shard), dictionary)
        for shard in range(3)
    ]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), whole, **EXACT)
    total = sum((one.score for _, one in parts[1:]), parts[0][1].score)
    assert total.values()[:4] == tally.score.values()[:4]
    assert (total.words, total.characters) == (tally.score.words, tally.score.characters)
    assert total.nats == pytest.approx(tally.score.nats, rel=1e-12)


def test_workers_change_nothing_bit_for_bit() -> None:
    dictionary, text = dictionary_of(11), random_text(120, 11)
    model = model_of(SMALL, random_weights(SMALL)).float()
    one, _ = losses(model, text, EvaluationPlan(4, 2, streams=2, memory=5), dictionary)
    for workers in (1, 2):
        other, _ = losses(model, text, EvaluationPlan(4, 2, streams=2, memory=5), dictionary, workers)
        assert torch.equal(one, other)


def test_a_warm_stream_of_one_layer_is_the_stream_from_the_beginning() -> None:
    """With one layer, a memory of embeddings does not tell whether there was anything before it."""
    cfg = replace(SMALL, layers=1, mem_len=8, memory="recurrence", encoding="transformer-xl")
    dictionary, text = dictionary_of(11), random_text(96, 11)
    model = model_of(cfg, random_weights(cfg))
    alone, _ = losses(model, text, EvaluationPlan(4, memory=8), dictionary)
    warm, tally = losses(model, text, EvaluationPlan(4, streams=4, memory=8), dictionary)
    torch.testing.assert_close(warm, alone, **EXACT)
    assert tally.score.partial_memory == 8 and tally.score.context == 3 * 8
    cold, tally = losses(model, text, EvaluationPlan(4, streams=4, memory=8, warmup=0), dictionary)
    assert (cold - alone).abs().max() > 1e-3
    assert tally.score.partial_memory == 4 * 8 and tally.score.context == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=9), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
def test_a_sentence_scores_as_if_it_were_alone(sizes, rows, tokens, context) -> None:
    dictionary = dictionary_of(11)
    generator = torch.Generator().manual_seed(len(sizes))
    lines = [torch.randint(2, 11, (size,), generator=generator).tolist() for size in sizes]
    weights = random_weights(SMALL)
    model = model_of(SMALL, weights)
    batches = EvaluationPlan(tokens, context, rows, memory=5, independent_lines=True).batches(
        text_of(lines), dictionary, ignore
    )
    found: Dict[int, float] = {}
    with torch.no_grad():
        for batch in batches:
            answers, _ = model(**batch["net_input"], targets=batch["target"])
            batch["tally"].take(answers)
            scored = batch["target"].ne(dictionary.pad())
            for row, line in enumerate(batch["id"].tolist()):
                found[line] = found.get(line, 0.0) - float(answers[row][scored[row]].sum())
    for number, line in enumerate(lines):
        whole, rest = divmod(len(line), tokens)
        lengths = [tokens] * whole + [rest] * (rest > 0)
        row = torch.tensor([[dictionary.eos(), *line]])
        expected = stream_nll(SMALL, weights, row, lengths, context=context).sum()
        assert found[number] == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("block, memory", [(64, 640), (4, 5)])
def test_the_protocol_of_truncated_bptt_by_counting_its_tokens(block: int, memory: int) -> None:
    """fairseq's Transformer-XL example reads blocks from the first token on and leaves out each block's last target
    and the remainder: 63 of 64 targets count. The same tokens of our account give its perplexity.
    """
    cfg = replace(SMALL, memory="recurrence", encoding="transformer-xl", mem_len=memory)
    weights, dictionary = random_weights(cfg), dictionary_of(11)
    text = random_text(block * 13 + 3, 11)
    tokens = text.span(0, text.total)
    # Theirs, by the reference: inputs are tokens 0.., and a block's last position has no target.
    blocks = (text.total - 1) // block
    theirs = stream_nll(cfg, weights, tokens[None, : blocks * block + 1], [block] * blocks)[0]
    counted = theirs.view(blocks, block)[:, :-1]
    # Ours: the same inputs come of a text whose first token stands in the place of </s>.
    rest, first = text_of([tokens[1 : blocks * block + 1].tolist()]), int(tokens[0])
    plan = EvaluationPlan(block, memory=memory)
    segments = Segments(rest, plan.cut(rest, dictionary).layout, dictionary.pad(), first)
    batches = plan.batches(rest, dictionary, ignore)
    batches.batches.batches = [segments.collater([segments[n] for n in items]) for items in segments.batches(1, 1)]
    score_batches(model_of(cfg, weights), batches, torch.device("cpu"))
    nats, targets = batches.tally.positions[:, :-1].sum(1)
    assert int(targets) == counted.numel() == blocks * (block - 1)
    assert float(nats / targets) == pytest.approx(float(counted.mean()), rel=1e-11)
    assert batches.tally.score.scored == blocks * block, "and ours leaves none out"


@pytest.mark.parametrize("softmax_batch", [None, 1, 7])
@pytest.mark.parametrize("members", [1, 2])
def test_the_account_is_that_of_fairseqs_scorer(softmax_batch, members: int) -> None:
    """However the softmax is cut up, and for an ensemble."""
    dictionary, text = dictionary_of(11), random_text(50, 11)
    models = [model_of(SMALL, random_weights(SMALL, seed)) for seed in range(members)]
    scorer = SequenceScorer(dictionary, softmax_batch)
    batches = EvaluationPlan(4, 2, streams=3, memory=5).batches(text, dictionary, ignore)
    total = 0.0
    for batch in batches:
        for [hypothesis] in scorer.generate(models, batch):
            total -= float(hypothesis["positional_scores"].sum())
    assert batches.tally.score.nats == pytest.approx(total, rel=1e-12)
    assert batches.tally.score.scored == 50


def test_a_probe_changes_nothing_and_sees_all_attention() -> None:
    dictionary, text = dictionary_of(11), random_text(60, 11)
    model, plan = model_of(SMALL, random_weights(SMALL)), EvaluationPlan(4, streams=2, memory=5)
    scores = []
    probe = Probe(SMALL.layers, reach=20)
    for look in (None, probe):
        batches = plan.batches(text, dictionary, ignore)
        score_batches(model, batches, torch.device("cpu"), look)
        scores.append(batches.tally.score)
    assert scores[0] == scores[1]
    # 30 + 35 tokens are read; a memory slot's distance is between 1 and M + N - 1.
    assert probe.share[1].tolist() == [65.0, 65.0]
    assert probe.attention[1].sum(-1).tolist() == pytest.approx([float(probe.attention[1, 0].sum())] * 2)
    torch.testing.assert_close(probe.attention[0].sum(-1), probe.share[0])
    assert probe.attention[1, :, 0].sum() == 0 and probe.attention[1, :, 9:].sum() == 0
    assert probe.attention[1, :, 1:9].min() > 0
    # The last layer's memory is read by nobody and not refreshed; alpha of the first is a weight.
    assert probe.alpha[1, 1].sum() == 0 and probe.alpha[1, 0, 1:6].min() > 0
    alpha = probe.alpha[0, 0, 1:6] / probe.alpha[1, 0, 1:6]
    assert 0 < alpha.min() and alpha.max() < 1
    # One alpha for each head and refreshed row, and so spread that their mean comes out, to half a part's width.
    rows, middles = probe.alpha[1, 0].sum(), (torch.arange(BINS) + 0.5) / BINS
    assert probe.histogram.sum(1).tolist() == [SMALL.heads * rows, 0]
    mean = (probe.histogram[0] * middles).sum() / probe.histogram[0].sum()
    assert abs(mean - probe.alpha[0, 0].sum() / rows) < 0.5 / BINS
