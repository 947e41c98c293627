"""How a split is cut up to be scored: every target once, behind the tokens that it should see."""

from typing import Dict, List, NamedTuple

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamemo_fairseq.data.layout import Layout
from lamemo_fairseq.data.segments import Segments
from lamemo_fairseq.data.sentences import Sentences
from lamemo_fairseq.data.text import Text

PAD, EOS, FIRST = 1, 2, 100


class Lines:
    """An indexed dataset as ``Text`` sees it: lines of tokens that are all different, FIRST onwards."""

    def __init__(self, sizes: List[int]) -> None:
        self.sizes = np.array(sizes)
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.lines = [torch.arange(a, b) + FIRST for a, b in zip(starts, starts[1:])]

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.lines[index]


class Cut(NamedTuple):
    """One way of cutting a split up."""

    sizes: List[int]
    rows: int
    shards: int
    tokens: int
    context: int
    warmup: int

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def layout(self) -> Layout:
        return Layout.even(self.total, self.rows * self.shards, self.tokens, self.context, self.warmup)


boundaries = st.builds(
    Cut,
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(0, 9),
    st.integers(0, 30),
)


def collated(dataset, rows: int, shards: int, shard: int) -> List[Dict]:
    """The batches of a shard."""
    batches = dataset.batches(rows, shards)
    assert len(batches) % shards == 0, "every rank gets equally many"
    return [dataset.collater([dataset[item] for item in items]) for items in batches[shard::shards]]


def check_batch(batch: Dict, layout: Layout, first_source: int) -> None:
    """What holds for every batch: sources stand before targets, only tails are padded, starts are told."""
    sources, targets = batch["net_input"]["src_tokens"], batch["target"]
    assert sources.shape == targets.shape == batch["remembered"].shape
    assert targets.is_contiguous()
    assert batch["ntokens"] == int(targets.ne(PAD).sum())
    for row, start in enumerate(batch["start_indices"]):
        length = int(batch["net_input"]["src_lengths"][row])
        assert not sources[row, length:].ne(PAD).any() and sources[row, :length].ne(PAD).all()
        # fairseq strips all padding behind the start: what is left must be what is scored, in one run.
        assert not targets[row, :start].ne(PAD).any()
        assert targets[row, start:length].ne(PAD).all() and not targets[row, length:].ne(PAD).any()
        assert start >= min(batch["context_tokens"], length)
        inputs = sources[row, :length].tolist()
        assert all(b == a + 1 for a, b in zip(inputs, inputs[1:]) if a != first_source)


@settings(max_examples=300, deadline=None)
@given(boundaries)
def test_every_target_is_scored_once_whatever_the_cut(cut: Cut) -> None:
    text, layout = Text(Lines(cut.sizes), "test"), cut.layout()
    segments = Segments(text, layout, PAD, EOS)
    found: List[int] = []
    for shard in range(cut.shards):
        own: List[int] = []
        entered: List[List[int]] = [[] for _ in range(cut.rows)]  # what each row's memory was given
        for number, batch in enumerate(collated(segments, cut.rows, cut.shards, shard)):
            check_batch(batch, layout, EOS)
            assert batch["net_input"]["segment"] == number
            sources, targets = batch["net_input"]["src_tokens"], batch["target"]
            for row in range(len(targets)):  # rows that hold no text are left out
                length = int(batch["net_input"]["src_lengths"][row])
                inputs = sources[row, :length].tolist()
                # The memory holds all that the row read before this segment, and nothing of the segment.
                if inputs and entered[row]:
                    assert inputs[0] == (FIRST if entered[row][-1] == EOS else entered[row][-1] + 1)
                for column in targets[row].ne(PAD).nonzero().flatten().tolist():
                    target, source = int(targets[row, column]), inputs[column]
                    own.append(target)
                    assert source == (target - 1 if target > FIRST else EOS)
                    place = target - FIRST
                    begin = place - len(entered[row]) - column  # the first token that the row read
                    # A window shows each target at least as many earlier tokens as it says, where there are any.
                    assert column >= min(cut.context, place - begin)
                    assert int(batch["remembered"][row, column]) == len(entered[row])
                    # Warm-up: a row but the first has read as much before its own as was asked for.
                    row_number = shard * cut.rows + row
                    assert begin == max(0, row_number * layout.row_length - cut.warmup)
                entered[row] += inputs[: batch["net_input"]["tokens_to_memory"]]
        assert len(own) == segments.targets(shard, cut.shards)
        found += own
    assert sorted(found) == list(range(FIRST, FIRST + cut.total))


@settings(max_examples=300, deadline=None)
@given(boundaries)
def test_every_token_of_every_sentence_is_scored_once(cut: Cut) -> None:
    text = Text(Lines(cut.sizes), "test")
    sentences = Sentences(text, cut.rows, cut.tokens, cut.context, PAD, EOS)
    ends = {int(line[0]): line for line in text.sentences.lines}
    found: List[int] = []
    for shard in range(cut.shards):
        own: List[int] = []
        expected = 0
        read: Dict[int, List[int]] = {}
        for batch in collated(sentences, cut.rows, cut.shards, shard):
            if not batch:
                continue
            number = batch["net_input"]["segment"]
            assert number in (0, expected), "a group is read from its beginning to its end"
            expected = number + 1
            if number == 0:
                read = {}
            for row, line in enumerate(batch["id"].tolist()):
                kept = batch["target"][row].ne(PAD)
                own += batch["target"][row][kept].tolist()
                read.setdefault(line, []).extend(batch["target"][row][kept].tolist())
                if number == 0:
                    assert int(batch["net_input"]["src_tokens"][row, 0]) == EOS, "nothing of the sentence before"
                assert read[line] == ends[read[line][0]].tolist()[: len(read[line])], "in order, from its first token"
        assert len(own) == sentences.targets(shard, cut.shards)
        found += own
    assert sorted(found) == list(range(FIRST, FIRST + cut.total))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 8), st.integers(0, 9), st.integers(0, 30))
def test_a_warm_up_fills_the_memory_of_every_row_that_has_room_for_it(total, rows, tokens, context, memory) -> None:
    layout = Layout.even(total, rows, tokens, context, memory + context)
    segments = Segments(Text(Lines([total]), "test"), layout, PAD, EOS)
    for batch in collated(segments, rows, 1, 0):
        for row in range(len(batch["target"])):
            scored = batch["target"][row].ne(PAD)
            if row * layout.row_length >= memory + context:
                assert batch["remembered"][row][scored].ge(memory).all()


def test_a_row_that_scores_nothing_reads_nothing() -> None:
    layout = Layout.even(total=5, rows=9, tokens=2, warmup=3)
    segments = Segments(Text(Lines([5]), "test"), layout, PAD, EOS)
    batches = collated(segments, 9, 1, 0)
    assert all(len(batch["target"]) == 5 for batch in batches)


def test_the_number_of_rows_beyond_the_text_costs_nothing() -> None:
    """Items that are made, of a text of 40 tokens: for a million rows no more than for eighty, on two ranks."""
    text, sizes = Text(Lines([40]), "test"), []
    for rows in (40, 1_000_000):
        segments = Segments(text, Layout.even(40, rows, tokens=2, warmup=6), PAD, EOS)
        batches = segments.batches(rows // 2, 2)
        sizes.append(sum(len(batch) for batch in batches))
        assert all(batches) and len(batches) % 2 == 0
        assert segments.targets(0, 2) + segments.targets(1, 2) == 40
    segments_of_a_row = Layout.even(40, 40, tokens=2, warmup=6).segments
    assert sizes == [40 * segments_of_a_row, 80 * segments_of_a_row], "ranks read as many rows each"


def test_the_longest_row_may_be_one_that_lacks_room_for_its_warmup() -> None:
    # Rows of 3, 3 and 1 tokens: the second can warm up on 3 only and reads 6, the third on 4 and reads 5.
    assert Layout.even(total=7, rows=3, tokens=2, warmup=4).longest == 6
