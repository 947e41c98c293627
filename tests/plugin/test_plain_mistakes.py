"""Mistakes that fairseq meets before this package does, or says nothing of: one line each, from the real commands."""

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import Any, List, Sequence

import pytest
import torch
from commands import shell
from conftest import TINY, USER_DIR, run
from fairseq.dataclass import FairseqDataclass
from fairseq.registry import REGISTRIES

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli import main as cli
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.plugin.error_reporting import explain

TASK = ["--task", "memory_language_modeling", "--tokens-per-sample", "16"]


def last_line(command: str, *words: Any, **environment: Any) -> str:
    """How a command that must fail ends."""
    done = run(command, *words, check=False, **environment)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "Traceback" not in done.stdout, done.stdout[-2000:]
    return done.stdout.splitlines()[-1]


def without(flag: str) -> List[str]:
    """``TINY`` without a flag that has one value."""
    place = TINY.index(flag)
    return TINY[:place] + TINY[place + 2 :]


#: flags of fairseq-train -> how the line begins
TRAINING = {
    "architecture": (
        ["--arch", "lamemo_lm_wt103_bse"],
        "--arch lamemo_lm_wt103_bse is not known: choose lamemo_lm_wt1",
    ),
    "no architecture at all": (["--arch", "x"], "--arch x is not known: --help lists what is"),
    "choice": (["--memory-type", "lokahead"], "--memory-type lokahead is not known: choose lookahead, recurrence, "),
    "flag": (["--memory-lenght", "3"], "unrecognized arguments: --memory-lenght 3 (--help lists all flags)"),
    "flag without a value": (["--mem-len"], "--mem-len: expected one argument (--help lists all flags)"),
    "batch size 0": (["--batch-size", "0"], "--batch-size 0 is too small: choose 1 or more"),
    "negative batch size": (["--batch-size", "-3"], "--batch-size -3 is too small: choose 1 or more"),
    "batch size of validation": (["--batch-size-valid", "0"], "--batch-size-valid 0 is too small: choose 1 or more"),
    "log interval": (["--log-interval", "0"], "--log-interval 0 is too small: choose 1 or more"),
    "log interval of a CSV": (["--log-interval", "0", "--csv-log", "/dev/null"], "--log-interval 0 is too small"),
    "subset": (["--valid-subset", "valdi"], "split valdi is not in "),
    "metric": (
        ["--best-checkpoint-metric", "bcp"],
        "--best-checkpoint-metric bcp is not logged: choose one of bits",
    ),
    "16 bits for a TPU": (["--bf16"], "fairseq takes --bf16 (and --tpu) without a GPU for a TPU"),
    "16 bits without a GPU": (["--fp16"], "--fp16 needs a GPU, and there is none: leave it out, or add --fp16-no-fl"),
    "groups of parameters": (["--optimizer", "composite"], "--optimizer composite takes groups of parameters from a"),
    "seed": (["--seed", "-1"], "--seed is not in 0 to 4294967295: choose another one"),
    "singular fit": (
        ["--memory-type", "continuous", "--criterion", "memory_cross_entropy", "--long-term-ridge", "1e-30"],
        "--long-term-ridge 1e-30 is too small for 64 basis functions, the fit is singular: choose ",
    ),
    "log file": (
        ["--log-file", "/none/x"],
        "--log-file /none/x cannot be written to (No such file or directory): name",
    ),
    "tensorboard": (["--tensorboard-logdir", "/proc/x"], "--tensorboard-logdir /proc/x cannot be written to (No such"),
    "schedule": (["--lr-scheduler", "pass_through"], "--lr-scheduler pass_through needs an optimizer with a schedule"),
}


@pytest.mark.parametrize("case", sorted(TRAINING))
def test_training(corpus: Path, tmp_path: Path, case: str) -> None:
    flags, line = TRAINING[case]
    found = last_line("train", corpus, *TINY, "--max-update", 1, "--save-dir", tmp_path, *flags)
    assert found.startswith(f"error: {line}")


def test_no_batch_size(corpus: Path, tmp_path: Path) -> None:
    found = last_line("train", corpus, *without("--batch-size"), "--save-dir", tmp_path)
    assert found.startswith("error: no batch size: give --batch-size")


@pytest.mark.parametrize("command", ["eval-lm", "generate", "validate"])
def test_no_such_checkpoint(corpus: Path, tmp_path: Path, command: str) -> None:
    found = last_line(command, corpus, *TASK, "--path", tmp_path / "no.pt", "--batch-size", 2)
    assert found == f"error: --path {tmp_path}/no.pt is no file: name a checkpoint"


@pytest.mark.slow  # processes that import fairseq anew, without the plugin
@pytest.mark.parametrize("command", ["eval-lm", "validate"])
def test_a_checkpoint_without_user_dir(corpus: Path, checkpoint: Path, command: str) -> None:
    """Nothing of the package is loaded then, but for what hydra finds."""
    words = f"fairseq-{command} {corpus} --path {checkpoint} --task language_modeling --batch-size 2"
    done = shell(words, checkpoint.parent, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout[-2000:]
    said = "error: --path names a checkpoint of lamemo_fairseq, which is not loaded: add --user-dir "
    assert done.stdout.splitlines()[-1] == f"{said}{USER_DIR} --task memory_language_modeling"
    (checkpoint.parent / "no.pt").write_text("no checkpoint")
    done = shell(words.replace(str(checkpoint), "no.pt"), checkpoint.parent, timeout=120)
    assert done.returncode == 1 and "Traceback" in done.stdout, "what is not ours is fairseq's to tell"


@pytest.mark.parametrize("split, advice", [("tset", ""), ("test7", "; fairseq-preprocess makes it from --testpref")])
def test_no_such_split(corpus: Path, checkpoint: Path, split: str, advice: str) -> None:
    found = last_line("eval-lm", corpus, *TASK, "--path", checkpoint, "--gen-subset", split)
    assert found == f"error: split {split} is not in {corpus}: it has test, train, valid{advice}"


#: flags of generation -> how the line begins; tests/generation/test_commands_refuse_and_omit.py has those of prompts
GENERATION = {
    "as many as beams": (["--sampling", "--beam", 3, "--nbest", 2], "--nbest 2 with --beam 3: --sampling draws as "),
    "one of many": (["--sampling", "--beam", 3], "--nbest 1 with --beam 3: --sampling draws as many texts as there"),
    "none shown": (["--nbest", 0], "--beam 5 with --nbest 0: show 1 text or more"),
    "temperature": (["--temperature", "nan"], "--temperature nan is no finite number"),
    "length": (["--max-len-a", "nan"], "--max-len-a nan is no finite number"),
    "longest": (["--max-len-b", 10**9], "--max-len-b (and --max-len-a) ask for 1000000000 new tokens: "),
    "no word": (["--no-repeat-ngram-size", 1, "--max-len-b", 400], "--no-repeat-ngram-size 1 leaves no word that "),
    "batch": (["--batch-size", 0], "--batch-size 0 is too small: choose 1 or more"),
}


@pytest.mark.parametrize("case", GENERATION)
def test_generation(corpus: Path, checkpoint: Path, case: str) -> None:
    """By both commands, which find some of it before they ask for a generator."""
    flags, line = GENERATION[case]
    words = [corpus, *TASK, "--path", checkpoint, "--cpu", "--max-len-b", 4, *flags]
    for command, more, text in (
        ("generate", ["--gen-subset", "test", "--prefix-size", 5, "--prompt-blocks", "0"], None),
        ("interactive", ["--bpe", "text_characters"], "the\n"),
    ):
        assert last_line(command, *words, *more, input=text).startswith(f"error: {line}")


@pytest.fixture(scope="module", params=["as many symbols", "fewer symbols"])
def other(request: Any, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same text with the dictionary of another one."""
    data = tmp_path_factory.mktemp("other") / "data-bin"
    shutil.copytree(corpus, data)
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [lines[1], lines[0], *lines[2:]] if request.param == "as many symbols" else lines[:-16]
    (data / "dict.txt").write_text("".join(lines), encoding="utf-8")
    return data


#: command -> its flags; training goes on from the checkpoint, or begins with its weights
WITH_CHECKPOINT = {
    "eval-lm": ["--path"],
    "generate": ["--prefix-size", "4", "--path"],
    "validate": ["--batch-size", "2", "--path"],
    "interactive": ["--path"],
    "train": [*TINY[2:], "--no-save", "--restore-file"],
    "train anew": [*TINY[2:], "--no-save", "--finetune-from-model"],
}


@pytest.mark.parametrize("command", WITH_CHECKPOINT)
def test_the_dictionary_of_another_corpus(command: str, checkpoint: Path, other: Path, tmp_path: Path) -> None:
    flags = [*WITH_CHECKPOINT[command], str(checkpoint)]
    words = [*TASK, *flags, *(["--save-dir", str(tmp_path)] if "train" in command else [])]
    found = last_line(command.split()[0], other, *words)
    assert re.match(rf"error: the checkpoint's dictionary \(\d+ types, \w+\) is not that of {other} ", found)


def encoders() -> List["tuple[str, str, Sequence[str]]"]:
    """Every tokenizer and BPE of fairseq that cannot do without a flag: (registry, name, flags)."""
    found = []
    for registry in ("bpe", "tokenizer"):
        for name, config in REGISTRIES[registry]["dataclass_registry"].items():
            assert issubclass(config, FairseqDataclass)
            needed = [field.name for field in dataclasses.fields(config) if field.default == "???"]
            if needed:
                found.append((registry, name, needed))
    return found


@pytest.mark.parametrize("registry, name, needed", encoders(), ids=lambda value: str(value))
def test_encoders_without_their_files(
    checkpoint: Path, corpus: Path, registry: str, name: str, needed: Sequence[str]
) -> None:
    words = [corpus, *TASK, "--path", checkpoint, f"--{registry}", name]
    found = last_line("interactive", *words)
    flags = "|".join(needed).replace("_", "-")
    assert re.match(rf"error: (--({flags}) is missing: \w+ needs it|a package is missing. Please install .*)$", found)


def test_an_encoder_whose_file_is_not_there(checkpoint: Path, corpus: Path) -> None:
    found = last_line("interactive", corpus, *TASK, "--path", checkpoint, "--bpe", "fastbpe", "--bpe-codes", "nowhere")
    assert found == "error: nowhere is no file: name the one that the data was made with (--bpe-codes or alike)"


def test_an_encoder_whose_package_is_not_there(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """By every way to the encoder: fairseq's commands, Python, and lamemo generate."""
    package, line = "fastBPE", "--bpe fastbpe cannot be used, fastBPE is not installed: pip install Cython"
    (tmp_path / "codes").write_text("t h 9\n")
    flags = {"bpe": "fastbpe", "bpe_codes": str(tmp_path / "codes")}
    words = ["--bpe", "fastbpe", "--bpe-codes", flags["bpe_codes"]]
    for command in ("interactive", "generate"):
        found = last_line(command, corpus, *TASK, "--path", checkpoint, *words, TEST_WITHOUT=package)
        assert found.startswith(f"error: {line}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=re.escape(line)):
        folder = str(checkpoint.parent)
        LaMemoLanguageModel.from_pretrained(folder, checkpoint.name, data_name_or_path=str(corpus), **flags)
    monkeypatch.setattr("sys.argv", ["lamemo"])
    assert cli.main(["generate", str(checkpoint), "--data", str(corpus), "--prompt", "a", *words]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"lamemo generate: {line}")


def fail(rank: int) -> None:
    raise UsageError(f"--rank {rank} is one too many: leave it out")


def test_the_line_of_a_process_that_fairseq_started() -> None:
    """Torch hands on the traceback of a process per GPU as text."""
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as error:
        torch.multiprocessing.start_processes(fail, nprocs=1, start_method="fork")
    assert explain(error.value) == "--rank 0 is one too many: leave it out"


def test_what_is_no_mistake_of_the_user_keeps_its_traceback() -> None:
    for error in (KeyError("bpc"), AssertionError("Must"), OSError("cached"), RuntimeError("shape")):
        try:
            raise error
        except Exception as raised:
            assert explain(raised) is None


@pytest.mark.parametrize("no_save", [True, False])
def test_nothing_is_left_by_a_crash_with_no_save(corpus: Path, tmp_path: Path, no_save: bool) -> None:
    """Losses that are no numbers end a run; fairseq keeps what it crashed with, unless nothing is to be saved."""
    flags = ["--lr", "1e30", "--clip-norm", "0", "--max-update", "20", "--save-dir", tmp_path / "run"]
    done = run("train", corpus, *TINY, *flags, *(["--no-save"] if no_save else []), check=False)
    assert done.returncode != 0, done.stdout[-1000:]
    assert (tmp_path / "run" / "crash.pt").exists() == (not no_save)
