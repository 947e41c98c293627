"""Preparing corpora: nothing of a text is lost, a second run does nothing, nothing is overwritten."""

import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from conftest import Told
from hypothesis import given
from hypothesis import strategies as st

from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.cli import prepare as prepare_command
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.characters import TextCharacters
from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import corpus, own_text, read
from lamemo_fairseq.data.prepare.corpus import CHARACTERS, WORDS
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
