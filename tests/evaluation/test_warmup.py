"""Streams that warm up score as one stream does: on real text, with a model that uses its memory."""

from pydoc_data import topics
from typing import Tuple

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from scoring_helpers import ignore, text_of

from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.data.text import Text
from lamemo_fairseq.evaluation.plan import EvaluationPlan
from lamemo_fairseq.evaluation.scoring import score_batches
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder
from lamemo_fairseq.plugin.model import LaMemoLanguageModel

SEGMENT = MEMORY = 32


def trained(memory_type: str, updates: int = 200) -> Tuple[LaMemoLanguageModel, Dictionary, Text]:
    """A small model, trained on characters of Python's documentation for some seconds, and 20,000 others."""
    text = " ".join(words for _, words in sorted(topics.topics.items()))[:160_000]
    dictionary = Dictionary()
    ids = [dictionary.add_symbol(character) for character in text]
    torch.manual_seed(1)
    cfg = LaMemoConfig(
        memory_type=memory_type,
        decoder_layers=2,
        decoder_embed_dim=48,
        decoder_ffn_embed_dim=96,
        decoder_attention_heads=2,
        mem_len=MEMORY,
        dropout=0.0,
    )
    model = LaMemoLanguageModel(LaMemoDecoder(cfg, dictionary, SEGMENT)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    segments, store = (
        EvaluationPlan(SEGMENT, streams=16, warmup=0).cut(text_of([ids[:140_000]]), dictionary),
        MemoryStore("train"),
    )
    for items in segments.batches(16, 1)[:updates]:
        batch = segments.collater([segments[item] for item in items])
        scores, _ = model(**batch["net_input"], store=store)
        F.cross_entropy(scores.flatten(0, 1), batch["target"].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), dictionary, text_of([ids[140_000:]])


@pytest.mark.parametrize(
    "memory_type",
    [
        "lookahead",
        pytest.param("recurrence", marks=pytest.mark.slow),  # trains a second model, for ten seconds
    ],
)
def test_warm_streams_stay_within_a_thousandth(memory_type: str) -> None:
    model, dictionary, text = trained(memory_type)

    def perplexity(plan: EvaluationPlan) -> float:
        batches = plan.batches(text, dictionary, ignore)
        score_batches(model, batches, torch.device("cpu"))
        return batches.tally.score.perplexity

    one = perplexity(EvaluationPlan(SEGMENT, memory=MEMORY))
    assert one < 14, "the model has learnt something"
    for streams in (2, 4, 16):
        assert perplexity(EvaluationPlan(SEGMENT, streams=streams, memory=MEMORY)) == pytest.approx(one, rel=1e-3)
    # Without a warm-up, streams of so few tokens start so cold that it shows.
    assert perplexity(EvaluationPlan(SEGMENT, streams=64, memory=MEMORY, warmup=0)) > one * 1.001
    assert perplexity(EvaluationPlan(SEGMENT, streams=64, memory=MEMORY)) == pytest.approx(one, rel=1e-3)
