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
    streams: int
    shards: int
    tokens: int
    context: int
    warmup: int

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def layout(self) -> Layout:
        return Layout.even(self.total, self.streams * self.shards, self.tokens, self.context, self.warmup)


boundaries = st.builds(
    Cut,
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(0, 9),
    st.integers(0, 30),
)


def collated(dataset, streams: int, shards: int, shard: int) -> List[Dict]:
    """The batches of a shard."""
    batches = dataset.batches(streams, shards)
    assert len(batches) % shards == 0, "every rank gets equally many"
    return [dataset.collater([dataset[item] for item in items]) for items in batches[shard::shards]]


def check_batch(batch: Dict, layout: Layout, first_source: int) -> None:
    """What holds for every batch: sources stand before targets, only tails are padded, starts are told."""
    sources, targets = batch["net_input"]["src_tokens"], batch["target"]
    assert sources.shape == targets.shape == batch["remembered"].shape
    assert targets.is_contiguous()
    assert batch["ntokens"] == int(targets.ne(PAD).sum())
    for stream, start in enumerate(batch["start_indices"]):
        length = int(batch["net_input"]["src_lengths"][stream])
        assert not sources[stream, length:].ne(PAD).any() and sources[stream, :length].ne(PAD).all()
        # fairseq strips all padding behind the start: what is left must be what is scored, in one run.
        assert not targets[stream, :start].ne(PAD).any()
        assert targets[stream, start:length].ne(PAD).all() and not targets[stream, length:].ne(PAD).any()
        assert start >= min(batch["context_tokens"], length)
        inputs = sources[stream, :length].tolist()
        assert all(b == a + 1 for a, b in zip(inputs, inputs[1:]) if a != first_source)


@settings(max_examples=300, deadline=None)
@given(boundaries)
def test_every_target_is_scored_once_whatever_the_cut(cut: Cut) -> None:
    text, layout = Text(Lines(cut.sizes), "test"), cut.layout()
    segments = Segments(text, layout, PAD, EOS)
    found: List[int] = []
    for shard in range(cut.shards):
        own: List[int] = []
        entered: List[List[int]] = [[] for _ in range(cut.streams)]  # what each stream's memory was given
        for number, batch in enumerate(collated(segments, cut.streams, cut.shards, shard)):
            check_batch(batch, layout, EOS)
            assert batch["net_input"]["segment"] == number
            sources, targets = batch["net_input"]["src_tokens"], batch["target"]
            for stream in range(len(targets)):  # streams that hold no text are left out
                length = int(batch["net_input"]["src_lengths"][stream])
                inputs = sources[stream, :length].tolist()
                # The memory holds all that the stream read before this segment, and nothing of the segment.
                if inputs and entered[stream]:
                    assert inputs[0] == (FIRST if entered[stream][-1] == EOS else entered[stream][-1] + 1)
                for column in targets[stream].ne(PAD).nonzero().flatten().tolist():
                    target, source = int(targets[stream, column]), inputs[column]
                    own.append(target)
                    assert source == (target - 1 if target > FIRST else EOS)
                    place = target - FIRST
                    begin = place - len(entered[stream]) - column  # the first token that the stream read
                    # A window shows each target at least as many earlier tokens as it says, where there are any.
                    assert column >= min(cut.context, place - begin)
                    assert int(batch["remembered"][stream, column]) == len(entered[stream])
                    # Warm-up: a stream but the first has read as much before its own as was asked for.
                    number_over_ranks = shard * cut.streams + stream
                    assert begin == max(0, number_over_ranks * layout.stream_length - cut.warmup)
                entered[stream] += inputs[: batch["net_input"]["tokens_to_memory"]]
        assert len(own) == segments.targets(shard, cut.shards)
        found += own
    assert sorted(found) == list(range(FIRST, FIRST + cut.total))


@settings(max_examples=300, deadline=None)
@given(boundaries)
def test_every_token_of_every_sentence_is_scored_once(cut: Cut) -> None:
    text = Text(Lines(cut.sizes), "test")
    sentences = Sentences(text, cut.streams, cut.tokens, cut.context, PAD, EOS)
    ends = {int(line[0]): line for line in text.sentences.lines}
    found: List[int] = []
    for shard in range(cut.shards):
        own: List[int] = []
        expected = 0
        read: Dict[int, List[int]] = {}
        for batch in collated(sentences, cut.streams, cut.shards, shard):
            if not batch:
                continue
            number = batch["net_input"]["segment"]
            assert number in (0, expected), "a group is read from its beginning to its end"
            expected = number + 1
            if number == 0:
                read = {}
            for stream, line in enumerate(batch["id"].tolist()):
                kept = batch["target"][stream].ne(PAD)
                own += batch["target"][stream][kept].tolist()
                read.setdefault(line, []).extend(batch["target"][stream][kept].tolist())
                if number == 0:
                    assert int(batch["net_input"]["src_tokens"][stream, 0]) == EOS, "nothing of the sentence before"
                assert read[line] == ends[read[line][0]].tolist()[: len(read[line])], "in order, from its first token"
        assert len(own) == sentences.targets(shard, cut.shards)
        found += own
    assert sorted(found) == list(range(FIRST, FIRST + cut.total))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 8), st.integers(0, 9), st.integers(0, 30))
def test_a_warm_up_fills_the_memory_of_every_stream_that_has_room_for_it(
    total, streams, tokens, context, memory
) -> None:
    layout = Layout.even(total, streams, tokens, context, memory + context)
    segments = Segments(Text(Lines([total]), "test"), layout, PAD, EOS)
    for batch in collated(segments, streams, 1, 0):
        for stream in range(len(batch["target"])):
            scored = batch["target"][stream].ne(PAD)
            if stream * layout.stream_length >= memory + context:
                assert batch["remembered"][stream][scored].ge(memory).all()


def test_a_row_that_scores_nothing_reads_nothing() -> None:
    layout = Layout.even(total=5, streams=9, tokens=2, warmup=3)
    segments = Segments(Text(Lines([5]), "test"), layout, PAD, EOS)
    batches = collated(segments, 9, 1, 0)
    assert all(len(batch["target"]) == 5 for batch in batches)


def test_the_number_of_streams_beyond_the_text_costs_nothing() -> None:
    """Items that are made, of a text of 40 tokens: for a million streams no more than for eighty, on two ranks."""
    text, sizes = Text(Lines([40]), "test"), []
    for streams in (40, 1_000_000):
        segments = Segments(text, Layout.even(40, streams, tokens=2, warmup=6), PAD, EOS)
        batches = segments.batches(streams // 2, 2)
        sizes.append(sum(len(batch) for batch in batches))
        assert all(batches) and len(batches) % 2 == 0
        assert segments.targets(0, 2) + segments.targets(1, 2) == 40
    segments_of_a_stream = Layout.even(40, 40, tokens=2, warmup=6).segments
    assert sizes == [40 * segments_of_a_stream, 80 * segments_of_a_stream], "ranks read as many streams each"


def test_the_longest_row_may_be_one_that_lacks_room_for_its_warmup() -> None:
    # Streams of 3, 3 and 1 tokens: the second can warm up on 3 only and reads 6, the third on 4 and reads 5.
    assert Layout.even(total=7, streams=3, tokens=2, warmup=4).longest == 6
