"""The forms of a text: counts, files as fairseq-preprocess writes them, splits, packed texts, given dictionaries."""

import gzip
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Command
from hypothesis import given
from hypothesis import strategies as st
from test_corpus import files_of, lamemo

from lamemo_fairseq.data.counts import read_counts
from lamemo_fairseq.data.prepare import binarize, corpus, own_text
from lamemo_fairseq.data.prepare.corpus import BYTES, CHARACTERS, WORDS
from lamemo_fairseq.data.prepare.forms import Form


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


@pytest.mark.parametrize(
    "form, again",
    [
        (["--characters"], ["--characters"]),
        (["--bytes"], ["--bytes"]),
        (["--sentencepiece", 20], ["--sentencepiece", "{}/spm.model"]),
        (["--bpe", 5], ["--codes", "{}/codes"]),
        (["--moses", "de"], ["--moses", "de"]),
        (["--moses", "de", "--bpe", 5], ["--codes", "{}/codes", "--moses", "de"]),
    ],
    ids=lambda flags: "".join(map(str, flags)).strip("{}"),
)
def test_a_dictionary_of_text_that_was_cut_otherwise(
    tmp_path: Path, form: list, again: list, capsys: pytest.CaptureFixture
) -> None:
    """Nearly all would be unknown, and scores would look good: it is said which flags the model's own text had."""
    for package in {"--bpe": ["fastBPE"], "--sentencepiece": ["sentencepiece"]}.get(form[-2] if form[1:] else "", []):
        pytest.importorskip(package)
    texts, data, new = words_of(tmp_path), tmp_path / "first" / "data-bin", tmp_path / "second"
    lamemo("text", "--train", texts["train"], "--dest", data.parent, *form, capsys=capsys)
    again = [str(word).format(data) for word in again]
    given = ["text", "--test", texts["test"], "--dict", data / "dict.txt", "--dest", new]
    others = ["--bytes"] if form == ["--characters"] else ["--characters"]
    for wrong in ([], ["--moses", "en"], others):
        said = lamemo(*given, *wrong, code=1, capsys=capsys)
        assert f"--dict {data}/dict.txt is of text that was cut with {' '.join(again)}, and" in said
        assert not new.exists()
    lamemo(*given, *again, capsys=capsys)


def test_a_dictionary_by_itself_is_taken_at_its_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Text that is cut already is words."""
    texts, first = words_of(tmp_path), tmp_path / "first"
    lamemo("text", "--train", texts["train"], "--characters", "--dest", first, capsys=capsys)
    (tmp_path / "dict.txt").write_bytes((first / "data-bin/dict.txt").read_bytes())
    cut = ["--test", first / "train.txt", "--dict", tmp_path / "dict.txt"]
    lamemo("text", *cut, "--dest", tmp_path / "new", capsys=capsys)
    assert read_counts(str(tmp_path / "new/data-bin"), "test").unknown == 0


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
