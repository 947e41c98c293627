"""What is counted of an original text, and how it is read back from beside the data."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.counts import TextCounts, read_counts


def test_counts_are_those_of_the_text() -> None:
    text = "Grüße  an\talle\n\n€ 5\n"
    counts = TextCounts()
    assert list(counts.counting(text.splitlines())) == text.splitlines()
    assert counts == TextCounts(3, 5, len(text), len(text.encode()))


def test_counts_are_read_back(tmp_path: Path) -> None:
    assert read_counts(str(tmp_path), "test") is None
    counts = TextCounts(1, 2, 3, 4, 5, 0)
    entry = {**asdict(counts), "sha256": "of another reader"}
    splits = {
        "splits": {"test": entry, "valid": {"lines": 1, "tokens": 3}}
    }  # valid: as it was before there were counts
    (tmp_path / "corpus.json").write_text(json.dumps(splits))
    assert read_counts(str(tmp_path), "test") == counts
    assert read_counts(str(tmp_path), "valid") is None
    assert read_counts(str(tmp_path), "test1") is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"splits": {"test": []}}',
        '{"splits": {"test": {"lines": 1, "words": "2", "characters": 3, "bytes": 4}}}',
        '{"splits": {"test": {"lines": 1, "words": 2, "characters": -3, "bytes": 4}}}',
    ],
)
def test_damaged_counts_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "corpus.json").write_text(text)
    with pytest.raises(UsageError, match="corpus.json (is no record|has counts of test that are no numbers)"):
        read_counts(str(tmp_path), "test")
