"""The account of an evaluation by hand: sums, rates, errors, positions; and the plan's checks and parts."""

import logging
import math
from dataclasses import replace
from typing import Any, Dict, List

import pytest
import torch
from fairseq.data import Dictionary
from scoring_helpers import text_of

from lamemo_fairseq.core.documents import Separator
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.counts import TextCounts
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.data.sentences import Sentences
from lamemo_fairseq.data.spelling import Spelling
from lamemo_fairseq.evaluation.plan import Attached, EvaluationPlan
from lamemo_fairseq.evaluation.scoring import (
    LossAccumulator,
    NonFiniteLoss,
    Score,
    ScoredBatches,
    exponential,
    score_batches,
)

PAD, EOS = 1, 2


def words() -> Dictionary:
    """Ids 4 to 7: two words, and a word in two pieces."""
    dictionary = Dictionary()
    for symbol in ("ab", "cde", "f@@", "g"):
        dictionary.add_symbol(symbol)
    return dictionary


def tally(memory: int = 3, targets: int = 6, segment: int = 2) -> LossAccumulator:
    return LossAccumulator(Spelling.of(words()), PAD, memory, targets, segment)


def batch() -> Dict[str, Any]:
    """Two rows of a context token and two new ones; the second ends a token early."""
    return {
        "net_input": {
            "src_tokens": torch.tensor([[4, 6, 7], [5, 2, PAD]]),
            "src_lengths": torch.tensor([3, 2]),
        },
        "target": torch.tensor([[PAD, 7, 2], [PAD, 4, PAD]]),
        "remembered": torch.tensor([[2, 2, 3], [3, 4, 0]]),
        "context_tokens": 1,
    }


def test_a_batch_is_added_up() -> None:
    account = tally()
    assert account.score == Score(targets=6) and account.positions.tolist() == [[0, 0], [0, 0]]
    account.take(-torch.tensor([[9.0, 1.0, 2.0], [9.0, 4.0, 9.0]]))
    losses = account.add_batch(batch())
    assert losses.tolist() == [[0, 1, 2], [0, 4, 0]] and losses.dtype == torch.float64
    # Targets g (behind f@@), </s> and ab (behind </s>): 1 + 1 + 2 characters, three words that end.
    assert account.score == Score(6, scored=3, partial_memory=1, context=2, nats=7.0, words=3, characters=4)
    assert account.positions.tolist() == [[5, 2], [2, 1]] and account.positions.dtype == torch.float64
    account.take(-torch.ones(2, 3))
    account.add_batch(batch())
    assert account.score.nats == 10.0 and account.score.scored == 6 and account.score.context == 4
    assert account.score.partial_memory == 2 and account.score.words == 6 and account.score.characters == 8
    assert account.positions.tolist() == [[7, 3], [4, 2]]
    account.score.check()


def test_unknown_targets_add_up_over_batches() -> None:
    account, unknown = tally(), batch()
    unknown["target"][unknown["target"] == 7] = words().unk()
    for times in (1, 2):
        account.take(-torch.ones(2, 3))
        account.add_batch(unknown)
        assert account.score.unknown == times


def test_pieces_and_members_stand_one_behind_the_other() -> None:
    """Fairseq cuts the softmax up, and averages the probabilities of an ensemble."""
    account = tally()
    first, second = torch.full((2, 3), 0.25), torch.full((2, 3), 0.75)
    for part in (first.flatten()[:4], first.flatten()[4:], second):
        account.take(part, is_log=False)
    assert account.add_batch(batch())[0, 1].item() == pytest.approx(math.log(2))
    for member in ([0.1, 0.2, 0.3], [0.5, 0.8, 0.1]):  # each target has a mean of its own
        account.take(torch.tensor([member, member]), is_log=False)
    assert account.add_batch(batch())[0].tolist() == pytest.approx([0, math.log(2), math.log(5)])
    account.take(torch.full((2, 2), -9.0))
    with pytest.raises(AssertionError, match="a part of the batch"):
        account.add_batch(batch())
    whole = tally()
    whole.take(torch.log(first))
    assert whole.add_batch(batch())[0, 1].item() == pytest.approx(math.log(4))


def test_what_is_noted_is_the_targets_probability() -> None:
    account, targets = tally(), batch()["target"]
    probabilities = -torch.arange(2 * 3 * 8.0).view(2, 3, 8)
    account.note(probabilities, targets, is_log=True)
    assert account.is_log is True and len(account.noted) == 1
    assert account.noted[0].tolist() == [-1, -15, -18, -25, -36, -41]
    account.note(probabilities, targets, is_log=False)
    assert account.is_log is False and len(account.noted) == 2


def test_rates() -> None:
    score = Score(targets=8, scored=8, nats=16.0, words=4, characters=32)
    assert score.loss == 2.0 and score.perplexity == pytest.approx(math.e**2)
    assert score.bits_per_character == pytest.approx(0.5 / math.log(2))
    assert score.word_perplexity == pytest.approx(math.e**4)
    assert exponential(699.9) == math.exp(699.9) and exponential(700) == exponential(1e9) == math.inf


def test_parts_add_up_name_by_name() -> None:
    one, other = Score(1, 2, 3, 4, 5.5, 6, 7, 8, 9, 10), Score(10, 20, 30, 40, 50.0, 60, 70, 80, 90, 100)
    assert one + other == Score(11, 22, 33, 44, 55.5, 66, 77, 88, 99, 110)
    assert one.values() == [1, 2, 3, 4, 5.5, 6, 7, 8, 9, 10, False] and Score().values() == [0] * 11


def test_a_score_is_refused_unless_whole_and_finite() -> None:
    Score(targets=1, scored=1).check()
    for wrong in (Score(targets=2, scored=1), Score(targets=1, scored=2), Score()):
        with pytest.raises(UsageError, match=rf"^{wrong.scored} targets were scored where {wrong.targets} were to be"):
            wrong.check("m.pt")
    for nats in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteLoss, match=rf"^m.pt: the loss of 1 targets is {nats}: no perplexity"):
            Score(targets=1, scored=1, nats=nats).check("m.pt")
    with pytest.raises(NonFiniteLoss, match="^the model: the loss of 3 targets"):
        Score(targets=1, scored=3, nats=math.nan).check()


SCORE = Score(targets=8, scored=8, partial_memory=3, context=5, nats=16.0, unknown=2, words=4, characters=32)
COUNTS = TextCounts(words=3, characters=20, lines=1, bytes=40, tokens=8)


def test_the_line() -> None:
    expected = (
        "8 targets scored, 3 of them with less than 7 tokens of memory, 5 tokens run only as context, "
        "loss 2.000000 nats per token, 0.721348 bits per character (32 characters), perplexity 7.3891 per token"
    )
    rest = "2 targets unknown (25.00 %); characters and words as the dictionary spells them"
    assert SCORE.line(7, pieces=False) == f"{expected}, {rest}"
    assert SCORE.line(7, pieces=True) == f"{expected}, perplexity 54.5982 per word (4 words), {rest}"
    original = SCORE.of_original(COUNTS, "test").line(7, pieces=False)
    assert original == (
        f"{expected.replace('0.721348', '1.154156').replace('(32 ', '(20 ')}, perplexity 54.5982 per word (4 words), "
        "207.1272 where ends of lines are no words (3 words), 0.577078 bits per byte (40 bytes), "
        "2 targets unknown (25.00 %); characters and words as the original text has them"
    )
    only_lines = replace(SCORE, words=2, lines=2, original=True).line(7, pieces=False)
    assert "no words" not in only_lines and "bytes" not in only_lines


def test_the_original_text() -> None:
    got = SCORE.of_original(COUNTS, "test")
    assert (got.words, got.characters, got.lines, got.bytes, got.original) == (4, 20, 1, 40, True)
    assert (got.nats, got.scored, got.unknown) == (16.0, 8, 2) and SCORE.original is False
    assert got.bits_per_byte == pytest.approx(0.4 / math.log(2))
    assert got.plain_word_perplexity == pytest.approx(math.exp(16 / 3))
    assert SCORE.of_original(None, "test") is SCORE
    part = replace(SCORE, scored=7)
    assert part.of_original(COUNTS, "test") is part, "a part of a split has no counts"
    assert SCORE.of_original(replace(COUNTS, tokens=None), "test").original
    with pytest.raises(UsageError, match="counts 9 tokens of test, where the data has 8"):
        SCORE.of_original(replace(COUNTS, tokens=9), "test")


def test_a_warning_of_unknown_words() -> None:
    assert Score(scored=100, unknown=1).unknown_warning("test") is None
    said = Score(scored=100, unknown=2).unknown_warning("test")
    assert said is not None and said.startswith("test: 2.00 % of the targets are <unk>") and "stood for" in said
    original = Score(scored=100, unknown=2, original=True).unknown_warning("test")
    assert original is not None and original.endswith("only with those of the same dictionary")


def test_batches_are_accounted_for_as_they_are_read() -> None:
    ended: List[int] = []
    account = tally(targets=3)
    batches = ScoredBatches([batch(), {}, batch()], account, lambda: ended.append(batches.n))
    assert len(batches) == 3 and batches.n == 0 and ended == []
    for number, one in enumerate(batches):
        assert one["tally"] is account and {**batch(), "tally": 0}.keys() == one.keys()
        assert account.score.scored == 3 * number, "a batch is added when its model has answered"
        assert batches.n == (1, 3)[number] and ended == []
        account.take(-torch.ones(2, 3))
    assert account.score.scored == 6 and ended == [3]


class Asked:
    """A model that notes what it is asked, a probe that notes what it is shown."""

    def __init__(self) -> None:
        self.shown: List[Any] = []

    def begin(self, read: torch.Tensor) -> None:
        self.shown.append(read.tolist())

    def __call__(self, src_tokens: Any, src_lengths: Any, targets: Any, probe: Any) -> Any:
        assert torch.is_inference_mode_enabled() and (probe is None or probe is self)
        self.asked = src_tokens.tolist(), targets.tolist()
        return -torch.ones(2, 3), {"losses": {}}


@pytest.mark.parametrize("probed", [False, True])
def test_a_model_is_asked_for_targets_alone(probed: bool) -> None:
    model, account = Asked(), tally(targets=3)
    batches = ScoredBatches([batch()], account, account.score.check)
    score_batches(model, batches, torch.device("cpu"), model if probed else None)  # type: ignore[arg-type]
    assert model.asked == (batch()["net_input"]["src_tokens"].tolist(), batch()["target"].tolist())
    assert account.score.nats == 3.0 and account.score.scored == 3
    assert model.shown == ([[[True] * 3, [True, True, False]]] if probed else [])


def test_plans_that_score_nothing() -> None:
    for wrong, line in (
        (EvaluationPlan(4, context=-1), "--context-window -1 is too small: choose 0 or more"),
        (EvaluationPlan(0, context=3), "--context-window 3 is not below --tokens-per-sample 3, so that no token"),
        (EvaluationPlan(4, streams=0), "--batch-size 0 is too small: choose 1 or more"),
        (EvaluationPlan(4, shards=2, shard=2), "--shard-id 2 is not one of --num-shards 2: choose 0 to 1"),
        (EvaluationPlan(4, shard=-1), "--shard-id -1 is not one of --num-shards 1: choose 0 to 0"),
    ):
        with pytest.raises(UsageError) as error:
            wrong.check()
        assert str(error.value).startswith(line)
    for right in (EvaluationPlan(1), EvaluationPlan(1, 0, 1), EvaluationPlan(4, shards=2, shard=1)):
        right.check()


def test_a_plan_cuts_the_text(caplog: pytest.LogCaptureFixture) -> None:
    text, dictionary = text_of([[4, 5, 6, 7, 2]] * 4), words()
    plan = EvaluationPlan(3, context=1, streams=2, memory=4, shards=2, shard=1)
    cut = plan.cut(text, dictionary)
    assert isinstance(cut, Segments) and cut.documents is None and (cut.pad, cut.eos) == (PAD, EOS)
    layout = cut.layout
    assert (layout.total, layout.streams, layout.context, layout.warmup) == (20, 4, 1, 5)
    assert layout.boundaries[:3] == (0, 2, 5)
    given = EvaluationPlan(3, streams=2, memory=4, warmup=0).cut(text, dictionary)
    assert isinstance(given, Segments) and given.layout.warmup == 0 and given.layout.context == 0
    lines = EvaluationPlan(3, context=1, streams=2, independent_lines=True).cut(text, dictionary)
    assert isinstance(lines, Sentences)
    assert caplog.records == []
    caplog.set_level(logging.WARNING)
    EvaluationPlan(5, streams=4, shards=2, shard=1).cut(text, dictionary)
    assert caplog.records == [], "one process says it"
    EvaluationPlan(5, context=2, streams=4, shards=2).cut(text, dictionary)
    assert "split test: 8 streams (--batch-size times ranks) of 20 tokens hold 3 each, --tokens-per-sample is 7" in (
        caplog.text
    )
    assert "choose --batch-size 1 or less" in caplog.text
    found = EvaluationPlan(3, separator=Separator(EOS, 6)).cut(text, dictionary)
    assert isinstance(found, Segments) and found.documents is not None
    assert found.documents.begins.tolist() == [0, 3, 8, 13, 18]


def test_a_plans_batches() -> None:
    text, dictionary = text_of([[4, 5, 6, 7, 2]] * 4), words()
    ended: List[LossAccumulator] = []
    plan = EvaluationPlan(3, streams=2, memory=4, shards=2, shard=1, warmup=0)
    batches = plan.batches(text, dictionary, ended.append)
    assert isinstance(batches.batches, Attached) and len(batches) == len(batches.batches) == 2
    account = batches.tally
    assert (account.pad, account.memory, account.score.targets) == (PAD, 4, 10)
    assert account.positions.shape == (2, 3) and account.spelling.uses_subwords
    stores = []
    for one in batches:
        stores.append(one["net_input"].pop("store"))
        assert one["net_input"]["src_tokens"].size(0) == 2
        account.take(-torch.ones_like(one["target"], dtype=torch.float64))
    assert stores[0] is stores[1] and stores[0].name == "test"
    assert ended == [account] and account.score.scored == 10 and account.score.nats == 10.0
    with pytest.raises(UsageError, match="--batch-size 0"):
        EvaluationPlan(3, streams=0).batches(text, dictionary, ended.append)
