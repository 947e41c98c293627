"""Generation through fairseq's search: against prompts forced token by token, alone, and plain search."""

import itertools
import math
from argparse import Namespace
from typing import List

import pytest
import torch
from fairseq import search
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator
from family import SEGMENT, WORDS, dictionary, make, read, text
from torch import Tensor

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.generation.ensemble import block_repeats
from lamemo_fairseq.generation.flags import check_generation
from lamemo_fairseq.generation.prompts import PromptLines
from lamemo_fairseq.generation.search import PromptedGenerator
from lamemo_fairseq.generation.session import Prompts
from lamemo_fairseq.generation.text import encode_text
from lamemo_fairseq.plugin.model import LaMemoLanguageModel

EOS, BOS, PAD, UNK = 2, 0, 1, 3


def model(kind: str = "lookahead", seed: int = 0) -> LaMemoLanguageModel:
    return LaMemoLanguageModel(make(kind, seed=seed)).eval()


def prompts(*rows: List[int]) -> Prompts:
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), PAD)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    return Prompts(tokens, lengths, torch.full_like(lengths, EOS))


def words(count: int, seed: int = 0) -> List[int]:
    return text(1, count, seed)[0].tolist()


def generator(*models: LaMemoLanguageModel, **options) -> PromptedGenerator:
    options = {"beam_size": 1, "max_len_b": 12, "write_unk": True, **options}
    return PromptedGenerator(list(models or [model()]), dictionary(), **options)


def log_probs(one: LaMemoLanguageModel, tokens: List[int]) -> Tensor:
    """Log-probabilities [n + 1, V] of each token of a text and of the next, read segment by segment."""
    return read(one.decoder, torch.tensor([[EOS, *tokens]]))[0]


def scores_of(one: LaMemoLanguageModel, tokens: List[int]) -> Tensor:
    return log_probs(one, tokens)[:-1].gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("kind", ["lookahead", "recurrence", "continuous"])
def test_one_beam_is_greedy(kind: str) -> None:
    one, expected = model(kind), words(5)
    with torch.no_grad():
        (found,) = generator(one, max_len_b=5 * SEGMENT).write(prompts(expected))
        for _ in range(5 * SEGMENT):
            scores = log_probs(one, expected)[-1]
            scores[[BOS, PAD]] = -math.inf
            expected.append(int(scores.argmax()))
    assert found[0]["tokens"].tolist() == expected
    torch.testing.assert_close(found[0]["positional_scores"].double(), scores_of(one, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("length", [1, SEGMENT, 3 * SEGMENT + 1])
def test_reading_a_prompt_ahead_equals_forcing_it(beam: int, length: int) -> None:
    """Against fairseq's own loop, which forces a token per step."""
    one, given, new = model(), words(length), 9
    # Fairseq's own generator ends texts with a symbol that is never chosen before the last step.
    stock = SequenceGenerator(
        [one], dictionary(), beam_size=beam, max_len_b=length + new, eos=BOS, min_len=length + new
    )
    source = torch.zeros(1, 1, dtype=torch.long)
    sample = {"net_input": {"src_tokens": source, "src_lengths": torch.ones(1, dtype=torch.long)}}
    forced = stock.generate([one], sample, prefix_tokens=torch.tensor([given]), bos_token=EOS)[0]
    found = generator(one, beam_size=beam, max_len_b=new).write(prompts(given))[0]
    assert len(found) == len(forced) == beam
    # Its last step adds what the model gives to that symbol, so its order is another one.
    by_words = {tuple(one["tokens"][:-1].tolist()): one for one in forced}
    for ours in found:
        theirs = by_words[tuple(ours["tokens"].tolist())]
        assert ours["tokens"].tolist() == theirs["tokens"][:-1].tolist()
        torch.testing.assert_close(ours["positional_scores"], theirs["positional_scores"][:-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_equals_its_rows(beam: int, stop: bool) -> None:
    """Prompts of unequal length, some longer than the memory, with ``</s>`` inside and at the end."""
    rows = [words(3), [*words(9, 1), EOS, *words(4, 2), EOS], words(2 * SEGMENT, 3), [EOS]]
    write = generator(model(), beam_size=beam, stop_at_eos=stop).write
    for together, row in zip(write(prompts(*rows)), rows):
        (alone,) = write(prompts(row))
        assert len(together) == len(alone) == beam
        for one, other in zip(together, alone):
            assert one["tokens"].tolist() == other["tokens"].tolist()
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"], rtol=0, atol=1e-5)
            assert one["tokens"][: len(row)].tolist() == row
            assert len(one["tokens"]) == len(row) + 12 or (stop and one["tokens"][-1] == EOS)


def test_scores_are_the_models() -> None:
    """Of prompt and continuation alike, sums divided by lengths as fairseq divides them."""
    one, row = model(), [*words(6), EOS, *words(3, 1)]
    for found in generator(one, beam_size=3, len_penalty=0.5).write(prompts(row, words(2)))[0]:
        expected = scores_of(one, found["tokens"].tolist())
        torch.testing.assert_close(found["positional_scores"].double(), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(found["score"].double(), expected.sum() / len(expected) ** 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize("new", [2, 3])
def test_beam_search_is_exhaustive_where_beams_suffice(new: int) -> None:
    """Of five words that may be written, over the end of a segment: all texts are scored one by one.

    With 22 beams a second token is searched exhaustively, and a third where the best 22 pairs are enough.
    """
    one, given = model(seed=3), words(SEGMENT - 2)
    allowed = [EOS, UNK, 4, 5, 6]
    one.decoder.output_bias.data[[i for i in range(WORDS) if i not in allowed]] = -1e4
    found = generator(one, beam_size=22, max_len_b=new).write(prompts(given))[0]
    texts = [[*given, *new_words] for new_words in itertools.product(allowed, repeat=new)]
    scores = torch.stack([scores_of(one, tokens).sum() for tokens in texts])
    best = int(scores.argmax())
    assert found[0]["tokens"].tolist() == texts[best]
    expected = scores_of(one, texts[best])[-new:]
    torch.testing.assert_close(found[0]["positional_scores"][-new:].double(), expected, rtol=0, atol=1e-4)


def test_beams_are_reordered_like_plain_search() -> None:
    """Beam search written out, each hypothesis read from its beginning, over four segments."""
    one, given, beam, new = model(seed=1), words(3), 4, 4 * SEGMENT
    hypotheses = [(0.0, list(given))]
    for _ in range(new):
        longer = []
        for total, tokens in hypotheses:
            next_scores = log_probs(one, tokens)[-1].tolist()
            longer += [
                (total + score, [*tokens, word]) for word, score in enumerate(next_scores) if word not in (BOS, PAD)
            ]
        hypotheses = sorted(longer, reverse=True)[:beam]
    found = generator(one, beam_size=beam, max_len_b=new).write(prompts(given))[0]
    assert [one["tokens"].tolist() for one in found] == [tokens for _, tokens in hypotheses]


def test_each_member_of_an_ensemble_has_its_own_memory() -> None:
    members, given = [model("lookahead"), model("recurrence", 1), model("none", 2)], words(2 * SEGMENT)
    (found,) = generator(*members, max_len_b=10).write(prompts(given))
    tokens = found[0]["tokens"].tolist()
    mean = torch.stack([log_probs(one, tokens)[:-1] for one in members]).logsumexp(0) - math.log(3)
    expected = mean.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found[0]["positional_scores"].double(), expected, rtol=0, atol=1e-5)
    assert tokens[-1] == int(mean[-1, 2:].argmax()) + 2


def test_documents_go_on_unless_told_to_stop() -> None:
    one, given = model(), [*words(5), EOS, *words(2, 1)]
    one.decoder.output_bias.data[EOS] = 100
    (on,), (stopped,) = (
        generator(one, max_len_b=6, stop_at_eos=stop).write(prompts(given))[0] for stop in (False, True)
    )
    assert on["tokens"].tolist() == given + [EOS] * 6
    assert stopped["tokens"].tolist() == [*given, EOS]
    (later,) = generator(one, max_len_b=6, min_len=4, stop_at_eos=True).write(prompts(given, given[:2]))[0]
    assert later["tokens"].tolist().index(EOS, len(given)) == len(given) + 3


def test_max_len_counts_new_tokens() -> None:
    rows = [words(2), words(7), words(20)]
    for found, row in zip(generator(max_len_a=0.5, max_len_b=3).write(prompts(*rows)), rows):
        assert len(found[0]["tokens"]) == len(row) + len(row) // 2 + 3


def test_no_run_comes_twice() -> None:
    given = [4, 5, 6, 7, 4, 5]
    one = model()
    one.decoder.output_bias.data[6] = 20  # without the rule, the text would be full of it
    for beam, rows in ((1, [given]), (3, [given, words(9)])):
        for found in generator(one, beam_size=beam, max_len_b=20, no_repeat_ngram_size=3).write(prompts(*rows))[0]:
            tokens = found["tokens"].tolist()
            runs = list(zip(tokens, tokens[1:], tokens[2:]))
            assert len(runs) == len(set(runs))
            assert tokens[6] != 6
    scores = torch.zeros(1, 9)
    block_repeats(scores, torch.tensor([given]), 3)
    assert scores.isinf().nonzero().tolist() == [[0, 6]]


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: search.Sampling(dictionary(), sampling_topk=3),
        lambda: search.Sampling(dictionary(), sampling_topp=0.7),
        lambda: search.DiverseBeamSearch(dictionary(), 2, 0.5),
        lambda: search.DiverseSiblingsSearch(dictionary(), 0.3),
    ],
    ids=["topk", "topp", "diverse", "siblings"],
)
def test_other_searches(strategy) -> None:
    """All of fairseq's strategies run on unequal prompts, again alike from one seed, and score what they wrote."""
    one, rows = model(), [words(3), words(6, 1), words(9, 2)]
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(generator(one, beam_size=2, search_strategy=strategy()).write(prompts(*rows)))
    for first, second, row in zip(*runs, rows):
        assert [h["tokens"].tolist() for h in first] == [h["tokens"].tolist() for h in second]
        assert all(h["tokens"][: len(row)].tolist() == row and len(h["tokens"]) == len(row) + 12 for h in first)


def test_sampled_tokens_are_of_the_chosen_few() -> None:
    one, row = model(), words(5)
    torch.manual_seed(1)
    top = search.Sampling(dictionary(), sampling_topk=2)
    tokens = generator(one, max_len_b=30, search_strategy=top).write(prompts(row))[0][0]["tokens"].tolist()
    scores = log_probs(one, tokens)[:-1]
    scores[:, [BOS, PAD]] = -math.inf
    ranks = (scores > scores.gather(1, torch.tensor(tokens).unsqueeze(1))).sum(1)[len(row) :]
    assert ranks.max() == 1 and ranks.min() == 0


def test_longest_prompts_are_read_together() -> None:
    lines = PromptLines([torch.ones(n).long() for n in (3, 9, 5, 9)], PAD)
    assert lines.ordered_indices().tolist() == [1, 3, 2, 0]


BAD = [
    ({"max_len_b": 0}, "--max-len-b 0 "),
    ({"min_len": 300}, "--min-len 300 .*--max-len-b 200"),
    ({"temperature": 0.0}, "--temperature 0 "),
    ({"nbest": 6}, "--beam 5 with --nbest 6"),
    ({"sampling": True, "sampling_topp": 1.5}, r"--sampling-topp 1.5 .*\(0, 1\]"),
    ({"sampling": True, "sampling_topp": 0.0}, "--sampling-topp 0 "),
    ({"sampling": True, "sampling_topk": 0}, "--sampling-topk 0 .*1 to 23"),
    ({"sampling": True, "sampling_topk": 99}, "--sampling-topk 99 .*1 to 23"),
    ({"sampling": True, "sampling_topk": 3, "sampling_topp": 0.5}, "--sampling-topk and --sampling-topp"),
    ({"sampling_topk": 3}, "--sampling-topk and --sampling-topp .*add --sampling"),
    ({"match_source_len": True}, "--match-source-len"),
    ({"score_reference": True}, "--score-reference .*fairseq-eval-lm"),
    ({"diverse_beam_groups": 2}, "--beam 5 .*--diverse-beam-groups 2"),
]


@pytest.mark.parametrize("flags, line", BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_flags(flags: dict, line: str) -> None:
    args = Namespace(**{**vars(GenerationConfig()), **flags})
    with pytest.raises(UsageError, match=line) as error:
        check_generation(args, [model()])
    assert "\n" not in str(error.value)


def test_members_must_agree() -> None:
    args, other = Namespace(**vars(GenerationConfig())), model()
    check_generation(args, [model(), model()])
    other.decoder.dictionary.add_symbol("more")
    with pytest.raises(UsageError, match="different dictionaries"):
        check_generation(args, [model(), other])


@pytest.mark.parametrize(
    "typed, line",
    [
        ("", "the text is empty"),
        ("  ", "the text is empty"),
        ("w1 gnu w2 gnat", "the text has symbols that the dictionary lacks: gnu gnat"),
        ("w1 \udcff", "the text is not UTF-8"),
    ],
)
def test_bad_text(typed: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        encode_text(typed, str, dictionary(), "the text")


def test_line_ends_are_symbols() -> None:
    tokens = encode_text("w1 w2\n\nw3 <unk>\n", str, dictionary(), "the text")
    assert tokens.tolist() == [5, 6, EOS, EOS, 7, UNK, EOS]
