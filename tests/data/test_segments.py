"""Layouts, segments and texts by literal tokens: what test_layout.py holds for any cut, shown for small ones."""

from typing import Any, List

import numpy as np
import pytest
import torch

from lamemo_fairseq.core.documents import NO_DOCUMENT, Separator
from lamemo_fairseq.data import documents
from lamemo_fairseq.data.documents import Documents
from lamemo_fairseq.data.layout import Layout, rotation, streams_per_rank
from lamemo_fairseq.data.segments import Segments, collate
from lamemo_fairseq.data.text import Text
from lamemo_fairseq.data.varied_layout import varied

PAD, EOS = 98, 99


class Lines:
    """An indexed dataset, int32 as fairseq's may be."""

    def __init__(self, *lines: List[int]) -> None:
        self.lines = [torch.tensor(line, dtype=torch.int32) for line in lines]
        self.sizes = np.array([len(line) for line in lines], dtype=np.int32)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.lines[index]


def text(total: int = 11) -> Text:
    """Token t is the number t; lines of 3."""
    return Text(Lines(*[list(range(a, min(a + 3, total))) for a in range(0, total, 3)]), "train")


def test_a_text_is_its_lines_joined() -> None:
    one = text()
    assert (one.total, len(one), one.name) == (11, 4, "train")
    assert one[1].tolist() == [3, 4, 5] and [one.num_tokens(n) for n in range(4)] == [3, 3, 3, 2]
    assert one.size(3) == 2 and isinstance(one.num_tokens(0), int) and isinstance(one.total, int)
    for start in range(12):
        for end in range(12):
            got = one.span(start, end)
            assert got.tolist() == list(range(start, end)) and got.dtype == torch.int64
    empty = Text(Lines(), "none")
    assert empty.total == 0 and len(empty) == 0 and empty.span(0, 0).tolist() == []
    gaps = Text(Lines([0, 1], [], [], [2], []), "gaps")
    assert gaps.total == 3 and gaps.span(0, 3).tolist() == [0, 1, 2] and gaps.span(2, 3).tolist() == [2]


def test_a_layout_by_its_numbers() -> None:
    cut = Layout.even(11, streams=2, tokens=2, context=3, warmup=5, offset=4)
    assert (cut.total, cut.streams, cut.context, cut.warmup, cut.offset) == (11, 2, 3, 5, 4)
    # The second stream warms up on 5 tokens: first a segment of 1, so that the warm-up ends with one.
    assert cut.boundaries == (0, 1, 3, 5, 7, 9, 11) and cut.segments == 6 and cut.stream_length == 6
    assert [cut.begin(stream) for stream in (0, 1)] == [0, 1] and [cut.scored(stream) for stream in (0, 1)] == [
        (0, 6),
        (6, 11),
    ]
    assert cut.longest == 10 and cut.filled == 2
    assert [cut.start(k) for k in range(6)] == [0, 0, 0, 2, 4, 6]
    assert [cut.context_tokens(k) for k in range(6)] == [0, 1, 3, 3, 3, 3]
    assert [cut.columns(k) for k in range(6)] == [1, 3, 5, 5, 5, 4]
    assert [cut.tokens_to_memory(k) for k in range(6)] == [0, 0, 2, 2, 2, 4]


def test_layouts_at_the_edges() -> None:
    one = Layout.even(11, streams=1, tokens=4, warmup=6)  # a single stream has nothing to warm up on
    assert one.boundaries == (0, 4, 8, 12) and one.longest == 11 and one.columns(2) == 3 and one.begin(0) == 0
    assert (one.context, one.offset) == (0, 0) and Layout(3, 1, (0, 3)).warmup == 0
    whole = Layout.even(11, streams=2, tokens=2, warmup=4)  # whole segments of warm-up
    assert whole.boundaries == (0, 2, 4, 6, 8, 10) and whole.begin(1) == 2 and whole.longest == 9
    short = Layout.even(5, streams=9, tokens=2, warmup=3)  # streams of one token, and four without any
    assert short.filled == 5 and short.stream_length == 1 and short.longest == 4
    assert short.scored(8) == (5, 5) and short.begin(8) == 5 and short.begin(4) == 1 and short.begin(1) == 0
    assert Layout.even(12, streams=3, tokens=4).boundaries == (0, 4)
    assert Layout.even(12, streams=3, tokens=4).filled == 3 and Layout.even(12, streams=3, tokens=4).longest == 4
    last = Layout.even(7, streams=3, tokens=2, warmup=1)  # streams of 3, 3, 1
    assert last.longest == 4 and last.boundaries == (0, 1, 3, 5) and last.columns(2) == 1


def test_what_is_drawn_and_what_is_counted() -> None:
    drawn = [rotation(1000, seed, epoch) for seed in (1, 2) for epoch in (1, 2)]
    assert drawn == [int(np.random.default_rng([s, e]).integers(1000)) for s in (1, 2) for e in (1, 2)]
    assert len(set(drawn)) == 4 and all(isinstance(n, int) for n in drawn)
    assert [
        streams_per_rank(7, None, 10),
        streams_per_rank(7, 100, 10),
        streams_per_rank(None, 35, 10),
        streams_per_rank(None, 9, 10),
    ] == [7, 7, 3, 1]
    assert streams_per_rank(None, None, 10) == 1


def test_varied_lengths_are_the_trainers() -> None:
    for seed, epoch, streams in ((1, 1, 1), (1, 2, 2), (3, 1, 5)):
        generator, ends = np.random.default_rng([seed, epoch]), [0]
        while ends[-1] < -(-20000 // streams):
            centre = 60 if generator.random() >= 0.05 else 30
            ends.append(ends[-1] + min(max(5, int(generator.normal(centre, 5))), 75))
        cut = varied(20000, streams, 60, seed, epoch, offset=6)
        assert list(cut.boundaries) == ends
        assert (cut.total, cut.streams, cut.offset, cut.context, cut.warmup) == (20000, streams, 6, 0, 0)
    lengths = np.diff(varied(4000, 1, 8, 1, 1).boundaries)
    assert lengths.min() == 5 and lengths.max() > 15 and varied(4000, 1, 8, 1, 1).offset == 0
    assert np.diff(varied(200000, 1, 8, 1, 1).boundaries).max() <= 8 + 15


def items(segments: Segments, *names: str) -> List[List[Any]]:
    """These entries of all items."""
    plain = [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in item.items()} for item in segments]
    return [[item[name] for name in names] for item in plain]


def test_items_of_a_window() -> None:
    segments = Segments(text(), Layout.even(11, streams=2, tokens=2, context=3), PAD, EOS)
    assert len(segments) == 6 and [segments.num_tokens(n) for n in range(6)] == [2, 2, 4, 4, 5, 5]
    assert segments.size(4) == 5
    assert items(segments, "id", "segment", "source", "target", "unscored", "remembered") == [
        [0, 0, [99, 0], [0, 1], 0, [0, 0]],
        [1, 0, [5, 6], [6, 7], 0, [0, 0]],
        [2, 1, [99, 0, 1, 2], [0, 1, 2, 3], 2, [0] * 4],
        [3, 1, [5, 6, 7, 8], [6, 7, 8, 9], 2, [0] * 4],
        [4, 2, [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], 3, [1] * 5],
        [5, 2, [6, 7, 8, 9], [7, 8, 9, 10], 3, [1] * 4],
    ]


def test_items_of_a_warm_up_and_of_streams_that_ended() -> None:
    segments = Segments(text(5), Layout.even(5, streams=3, tokens=2, warmup=3), PAD, EOS)
    # Streams of 2, 2 and 1 tokens; the second reads 2 before its own, the third 3.
    assert items(segments, "source", "target", "unscored", "remembered") == [
        [[99], [0], 0, [0]],
        [[99], [0], 1, [0]],
        [[0], [1], 1, [0]],
        [[0], [1], 0, [1]],
        [[0, 1], [1, 2], 1, [1, 1]],
        [[1, 2], [2, 3], 2, [1, 1]],
        [[], [], 0, []],
        [[2], [3], 0, [3]],
        [[3], [4], 0, [3]],
    ]


def test_a_rotated_text_begins_behind_its_end() -> None:
    segments = Segments(text(), Layout.even(11, streams=2, tokens=3, offset=4), PAD, EOS)
    assert items(segments, "source", "target") == [
        [[3, 4, 5], [4, 5, 6]],
        [[9, 99, 0], [10, 0, 1]],  # the text's first token stands behind </s> here too
        [[6, 7, 8], [7, 8, 9]],
        [[1, 2], [2, 3]],
    ]
    assert [segments.span(*ends).tolist() for ends in ((0, 7), (0, 11), (5, 9), (7, 9))] == [
        [4, 5, 6, 7, 8, 9, 10],
        [4, 5, 6, 7, 8, 9, 10, 0, 1, 2, 3],
        [9, 10, 0, 1],
        [0, 1],
    ]
    exactly = Segments(text(), Layout.even(11, streams=1, tokens=7, offset=4), PAD, EOS)
    assert items(exactly, "source") == [[[3, 4, 5, 6, 7, 8, 9]], [[99, 0, 1, 2]]]


def test_a_batch_by_its_entries() -> None:
    segments = Segments(text(), Layout.even(11, streams=2, tokens=2, context=3), PAD, EOS)
    batch = segments.collater([segments[4], segments[5]])
    net_input = batch.pop("net_input")
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in {**batch, **net_input}.items()}
    assert plain == {
        "id": [4, 5],
        "nsentences": 2,
        "ntokens": 2 + 1,
        "target": [[98, 98, 98, 4, 5], [98, 98, 98, 10, 98]],
        "start_indices": [3, 3],
        "remembered": [[1] * 5, [1, 1, 1, 1, 0]],
        "context_tokens": 3,
        "split": "train",
        "src_tokens": [[0, 1, 2, 3, 4], [6, 7, 8, 9, 98]],
        "src_lengths": [5, 4],
        "segment": 2,
        "tokens_to_memory": 5,
    }
    assert segments.collater([]) == {} and collate([], segments.layout, PAD, "train") == {}
    assert segments.collater([segments[3]])["net_input"]["tokens_to_memory"] == 1
    assert batch["target"].dtype == net_input["src_tokens"].dtype == torch.int64


def test_batches_and_ranks() -> None:
    segments = Segments(text(), Layout.even(11, streams=4, tokens=2), PAD, EOS)  # streams of 3, 3, 3, 2
    assert segments.batches(2, 2) == [[0, 1], [2, 3], [4, 5], [6, 7]] and segments.streams_read(2) == 2
    assert [segments.targets(rank, 2) for rank in range(2)] == [6, 5]
    assert [segments.targets(rank, 4) for rank in range(4)] == [3, 3, 3, 2] and segments.targets(0, 1) == 11
    few = Segments(text(3), Layout.even(3, streams=8, tokens=2), PAD, EOS)
    assert few.batches(4, 2) == [[0, 1, 2], [4, 5, 6]] and few.streams_read(4) == 3 and few.streams_read(2) == 2
    with pytest.raises(AssertionError):
        segments.batches(3, 2)


def test_documents_of_a_rotated_text() -> None:
    lines = Text(Lines([0, 7], [2, 3, 7], [5, 6]), "train")  # 7 ends a document: they begin at 0, 2 and 5
    found = Documents.find(lines, Separator(EOS, 7))
    assert found.begins.tolist() == [0, 2, 5] and found.total == 7
    assert found.numbers(0, 9).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert found.firsts(0, 9).tolist() == [0, 0, 2, 2, 2, 5, 5, 7, 7]
    segments = Segments(lines, Layout.even(7, streams=1, tokens=4, context=1, offset=3), PAD, EOS, found)
    assert items(segments, "documents", "remembered") == [
        [[1, 1, 2, 2], [0] * 4],
        [[2, 3, 3, 4], [1, 0, 0, 0]],
    ]
    batch = segments.collater([segments[1]])
    assert batch["net_input"]["documents"].tolist() == [[2, 3, 3, 4]]
    cut = Segments(lines, Layout.even(7, streams=2, tokens=2), PAD, EOS, found)
    last = cut.collater([cut[2], cut[3]])["net_input"]["documents"].tolist()
    assert last == [[1, 1], [2, NO_DOCUMENT]]


def test_a_separator_at_the_end_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 2, 3, 100):
        monkeypatch.setattr(documents, "CHUNK", chunk)
        for tokens, begins in (([1, 7, 7], [0, 2]), ([7], [0]), ([1, 2], [0]), ([7, 1], [0, 1])):
            assert Documents.find(Text(Lines(tokens), "t"), Separator(EOS, 7)).begins.tolist() == begins
        for tokens, begins in (([EOS, 1, EOS, EOS, 2], [0, 1, 4]), ([1, EOS, 2], [0])):  # blank lines
            assert Documents.find(Text(Lines(tokens), "t"), Separator(EOS)).begins.tolist() == begins
