"""Documents: where they begin, and that a memory never reaches into the one before."""

from dataclasses import replace
from pathlib import Path
from typing import List, Optional

import numpy as np
import pytest
import torch
from bridge import build, dictionary_of
from commands import Command
from conftest import TINY, USER_DIR, task_config
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ReferenceConfig, stream_nll
from reference_weights import random_weights
from scoring_helpers import losses, reference_losses, text_of

from lamemo_fairseq.core.documents import Separator
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data import documents
from lamemo_fairseq.data.documents import Documents
from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.evaluation.plan import EvaluationPlan
from lamemo_fairseq.generation.history import group_by_shape, stack
from lamemo_fairseq.plugin.config import MemoryLanguageModelingConfig
from lamemo_fairseq.plugin.model import LaMemoLanguageModel

PAD, EOS, MARK = 1, 2, 5
SMALL = ReferenceConfig(vocab_size=11, layers=2, heads=2, head_dim=4, model_dim=6, ffn_dim=10, mem_len=5)
KINDS = [{}, {"memory": "recurrence", "encoding": "transformer-xl"}, {"memory": "none", "encoding": "transformer-xl"}]

# Lines of words 6 to 10; an empty one is blank.
texts = st.lists(st.lists(st.integers(MARK, 10), max_size=4), min_size=1, max_size=12)
separators = st.sampled_from([Separator(EOS), Separator(EOS, MARK), Separator(EOS, EOS)])


def with_ends(lines: List[List[int]]) -> List[List[int]]:
    """As fairseq-preprocess writes lines."""
    return [[*line, EOS] for line in lines]


def plainly(tokens: List[int], separator: Separator) -> List[int]:
    """The number of each token's document, counted one by one."""
    numbers, number, before = [], 0, EOS
    for token in tokens:
        numbers.append(number)
        ended = token == separator.symbol if separator.symbol is not None else token == before == EOS
        number, before = number + ended, token
    return numbers


@settings(max_examples=200, deadline=None)
@given(texts, separators, st.integers(1, 9), st.integers(0, 50))
def test_documents_are_numbered_behind_each_separator(lines, separator, chunk, offset) -> None:
    text = text_of(with_ends(lines))
    before, documents.CHUNK = documents.CHUNK, chunk  # so that separators fall on both sides of its edges
    try:
        found = Documents.find(text, separator)
    finally:
        documents.CHUNK = before
    numbers = plainly(text.span(0, text.total).tolist(), separator)
    assert found.numbers(0, text.total).tolist() == numbers
    assert found.firsts(0, text.total).tolist() == [numbers.index(number) for number in numbers]
    # A rotated text ends with its beginning, which is another document than its end.
    offset %= text.total
    turned = found.numbers(offset, offset + text.total).tolist()
    expected = numbers[offset:] + [number + len(set(numbers)) for number in numbers[:offset]]
    assert turned == expected


@settings(max_examples=100, deadline=None)
@given(texts, separators)
def test_inputs_alone_tell_where_documents_begin(lines, separator) -> None:
    """As generation needs it: a model's inputs are ``</s>``, then the text but its last token."""
    text = text_of(with_ends(lines))
    tokens = text.span(0, text.total)
    ends = separator.ends(tokens[None], torch.tensor([EOS]))[0]
    begins = Documents.find(text, separator).begins
    assert (ends.nonzero().flatten() + 1)[: len(begins) - 1].tolist() == begins[1:].tolist()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    lines=texts,
    separator=separators,
    rows=st.integers(1, 2),
    tokens=st.integers(1, 6),
    context=st.integers(0, 4),
)
def test_losses_are_those_of_the_reference_with_documents(kind, lines, separator, rows, tokens, context) -> None:
    cfg = replace(SMALL, **kind)
    weights, dictionary, text = random_weights(cfg), dictionary_of(11), text_of(with_ends(lines))
    plan = EvaluationPlan(tokens, context, rows, cfg.capacity, separator=separator)
    found, tally = losses(LaMemoLanguageModel(build(cfg, weights)), text, plan, dictionary)
    numbers = torch.tensor(plainly(text.span(0, text.total).tolist(), separator))
    expected = reference_losses(cfg, weights, text, plan, EOS, numbers)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)
    assert tally.score.scored == text.total


def test_a_document_that_begins_with_a_segment_scores_as_if_it_were_alone() -> None:
    first, second = [[6, 7, 8, 9, 10, 6], []], [[7, 9, 9, 8], [10, 6, 7]]  # 8 and 9 tokens
    weights, dictionary = random_weights(SMALL), dictionary_of(11)
    text = text_of(with_ends([*first, *second]))
    plan = EvaluationPlan(4, memory=5, separator=Separator(EOS))
    found, tally = losses(LaMemoLanguageModel(build(SMALL, weights)), text, plan, dictionary)
    tokens = text.span(0, text.total)
    alone = stream_nll(SMALL, weights, tokens[None, 7:], [4, 4, 1])[0]  # its first input is the separator's end
    torch.testing.assert_close(found[8:], alone, atol=1e-11, rtol=0)
    partial = tally.score.partial_memory
    assert partial == 8 + 8, "two segments of four begin with less than five tokens of its own"


def test_remembered_counts_the_own_document_only() -> None:
    text = text_of([[6] * 5 + [EOS], [EOS], [7] * 6 + [EOS]])  # the second document begins at 7
    found = Documents.find(text, Separator(EOS))
    segments = Segments(text, Layout.even(text.total, 1, 4), PAD, EOS, found)
    remembered = [segments.collater([segments[n]])["remembered"][0].tolist() for n in range(4)]
    assert remembered == [[0] * 4, [4, 4, 4, 0], [1] * 4, [5, 5]]
    assert segments[1]["documents"].tolist() == [0, 0, 0, 1]


def settings_of(data: Path, **changes: Optional[str]) -> MemoryLanguageModelingConfig:
    return task_config(data, **changes)


def test_flags_that_contradict_each_other(corpus: Path) -> None:
    with pytest.raises(UsageError, match="--document-separator x has no effect with --memory-reset never"):
        settings_of(corpus, document_separator="x").check()
    with pytest.raises(UsageError, match="--document-separator absent is not in the dictionary"):
        Separator.of(dictionary_of(11), "absent")


def test_training_clears_memories_too(corpus: Path, tmp_path: Path) -> None:
    weights = []
    for name, flags in {"never": [], "document": ["--memory-reset", "document", "--document-separator", "_"]}.items():
        folder = tmp_path / name
        base = [corpus, *TINY, "--user-dir", USER_DIR, "--cpu", "--disable-validation", "--save-dir", folder]
        log = tmp_path / f"{name}.log"
        Command("train", [*base, "--max-update", 4, "--dropout", 0, *flags], log).succeed()
        weights.append(torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"])
    never, word = (np.concatenate([tensor.flatten().numpy() for tensor in one.values()]) for one in weights)
    assert np.abs(never - word).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS, ids=["lookahead", "recurrence", "none"])
@pytest.mark.parametrize("separator", [Separator(EOS), Separator(EOS, MARK)], ids=["blank", "symbol"])
def test_decoding_clears_memories_where_reading_does(kind, separator) -> None:
    """Token by token and in pieces, over segments: with ends of documents inside of them and at their edges."""
    cfg = replace(SMALL, **kind)
    N, B, generator = 4, 3, torch.Generator().manual_seed(7)
    decoder = build(cfg, random_weights(cfg), N)
    decoder.separator = separator
    words = torch.tensor([EOS, EOS, MARK, 6, 7])  # many ends, and many that only look like one
    text = words[torch.randint(len(words), (B, 6 * N), generator=generator)]
    source = torch.cat([torch.full((B, 1), EOS), text[:, :-1]], dim=1)
    numbers = torch.tensor([plainly(row, separator) for row in text.tolist()])
    assert (numbers[:, -1] > 1).all()
    store, state, found = MemoryStore("text"), {}, []
    with torch.no_grad():
        read = [
            decoder(source[:, n * N : n * N + N], store=store, segment=n, documents=numbers[:, n * N : n * N + N])[0]
            for n in range(6)
        ]
        for end in range(1, 6 * N + 1):
            scores, _ = decoder(source[:, :end], incremental_state=state)
            found.append(scores)
            decoder.reorder_incremental_state(state, torch.tensor([0, 2, 1]))  # and back: rows keep their documents
            decoder.reorder_incremental_state(state, torch.tensor([0, 2, 1]))
    torch.testing.assert_close(torch.cat(found, 1), torch.cat(read, 1), rtol=1e-10, atol=1e-10)


def test_texts_that_begin_are_not_joined_with_texts_that_go_on() -> None:
    """Without a memory nothing but the last token tells them apart."""
    new, old = MemoryState({}), MemoryState({}, last=torch.tensor([EOS]))
    assert group_by_shape([[old], [new], [old]]) == [[0, 2], [1]]
    joined = stack([old, old])
    assert joined.last is not None and joined.last.tolist() == [EOS, EOS]
