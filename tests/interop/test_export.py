"""``lamemo export``: a directory scores and writes as its checkpoint did, with fairseq and without, for any text."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional

import pytest
import torch
from commands import ROOT
from conftest import TINY, run
from interpreters import BLOCKED, fresh
from safetensors import safe_open

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli.main import main
from lamemo_fairseq.core import load_pretrained
from lamemo_fairseq.core.memory import KINDS
from lamemo_fairseq.data.prepare import forms, own_text
from lamemo_fairseq.generation.python_api import TextInterface

OLD = ROOT / "tests" / "checkpoints"
NAMES = sorted(path.stem for path in OLD.glob("*.pt"))
TEXT = "the value of a class"


def lamemo(*words: object) -> int:
    """The command, in this process."""
    return main([str(word) for word in words])


def assert_same(one: TextInterface, other: TextInterface, text: str = TEXT) -> None:
    """Scores, greedy and drawn texts are the same, bit for bit."""
    first, second = one.score(text), other.score(text)
    assert torch.equal(first["tokens"], second["tokens"])
    assert torch.equal(first["positional_scores"], second["positional_scores"])
    for flags in ({"max_len_b": 20}, {"max_len_b": 20, "sampling": True, "sampling_topk": 5, "seed": 1}):
        assert one.sample(text, **flags) == other.sample(text, **flags)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of every old checkpoint, by its name."""
    folder = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        flags = ("--data", OLD / "data-bin", "--bpe", "text_characters")
        assert lamemo("export", OLD / f"{name}.pt", folder / name, *flags) == 0
    return folder


def test_every_kind_is_among_them(exported: Path) -> None:
    configs = [json.loads((exported / name / "config.json").read_text()) for name in NAMES]
    assert {config["model"]["memory"] for config in configs} == set(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_model(exported: Path, name: str) -> None:
    data = {"data_name_or_path": str(OLD / "data-bin"), "bpe": "text_characters"}
    before = LaMemoLanguageModel.from_pretrained(str(OLD), f"{name}.pt", **data)
    after = LaMemoLanguageModel.from_pretrained(str(exported / name))
    assert_same(before, after)


def test_without_fairseq_it_scores_the_same(exported: Path, tmp_path: Path) -> None:
    """In an interpreter that has neither fairseq nor hydra: every kind, read in segments and token by token."""
    reads = """
import json, os, torch
from lamemo_fairseq.core import load_pretrained
torch.set_num_threads(1)
folder, out, tokens = {arguments!r}
source, found = torch.tensor([[2, *tokens]]), {{}}
for name in sorted(os.listdir(folder)):
    model = load_pretrained(os.path.join(folder, name))
    with torch.no_grad():
        segments = [model.log_probs(features) for features in model.decode_tokens(source, model.new_segment(1))]
        scores = torch.cat(segments, dim=1)[0, :-1].gather(1, torch.tensor(tokens).unsqueeze(1))
    found[name] = scores.flatten().tolist()
json.dump(found, open(out, "w"))
"""
    lms = {name: LaMemoLanguageModel.from_pretrained(str(exported / name)) for name in NAMES}
    tokens = lms["none"].encode(TEXT).tolist()
    out = tmp_path / "found.json"
    fresh(BLOCKED + reads.format(arguments=(str(exported), str(out), tokens)), tmp_path)
    found = json.loads(out.read_text())
    for name, lm in lms.items():
        assert found[name] == lm.score(TEXT)["positional_scores"].tolist(), name


def test_only_weights_are_handed_on(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Neither optimizer nor memory, and no path of the machine that trained."""
    assert lamemo("export", checkpoint, tmp_path / "model") == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("README.md", "config.json", "dict.txt", "model.safetensors"),
    ]
    for path in (tmp_path / "model").iterdir():
        content = path.read_bytes()
        assert str(checkpoint.parent.parent).encode() not in content, path
        assert path.stat().st_mode & 0o444 == (tmp_path / "model" / "config.json").stat().st_mode & 0o444
    state = torch.load(checkpoint, weights_only=True)
    assert "streams" in state["extra_state"]["train_iterator"]
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert {f"decoder.{name}" for name in file.keys()} == state["model"].keys()  # noqa: SIM118


def test_the_card_says_what_is_asked_of_one(tmp_path: Path) -> None:
    """Data, settings, scores, the program's revision and the licence, also where the hub looks for it."""
    flags = ("--data", OLD / "data-bin", "--license", "cc0-1.0", "--score", "test bpc=2.5", "--score", "valid bpc=2.4")
    assert lamemo("export", OLD / "lookahead.pt", tmp_path / "model", *flags) == 0
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc0-1.0\n") and card.endswith("## Licence\n\ncc0-1.0\n")
    assert "| test bpc | 2.5 |\n| valid bpc | 2.4 |" in card
    assert "## Data\n\n- not recorded" in card  # of data that lamemo prepare has made: test_text_is_remembered
    for row in ("| memory | lookahead, ", "| optimizer | adam |", "| lr | ", "| clip norm | ", "| seed | "):
        assert row in card, row
    asked = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if asked.returncode != 0:
        pytest.skip("no checkout, so no revision")
    assert re.search(rf"Exported by lamemo_fairseq [\d.]+, revision {asked.stdout.strip()}(-dirty)?\.\n", card)


SENTENCE = "The  cat isn't here, said the other."
FORMS: Dict[str, forms.Form] = {
    "characters": forms.Form(units="characters"),
    "bytes": forms.Form(units="bytes"),
    "words": forms.Form(),
    "moses and fastBPE": forms.Form(moses="en", merges=20),
    "sentencepiece": forms.Form(sentencepiece=20),
}


@pytest.mark.parametrize("name", FORMS)
def test_text_is_remembered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further argument, and nothing but the directory: the data are gone."""
    if name.endswith("fastBPE"):
        pytest.importorskip("fastBPE")
    if name == "sentencepiece":
        pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text((SENTENCE + "\n") * 40, encoding="utf-8")
    splits = own_text.shares(tmp_path / "text", "80,10,10")
    own_text.prepare(tmp_path / "mine", splits, FORMS[name])
    data, folder = tmp_path / "mine" / "data-bin", tmp_path / "run"
    run("train", data, *TINY, "--max-update", 2, "--disable-validation", "--save-dir", folder)
    before = LaMemoLanguageModel.from_pretrained(str(folder), "checkpoint_last.pt", data_name_or_path=str(data))
    assert lamemo("export", folder / "checkpoint_last.pt", tmp_path / "model") == 0
    shutil.move(tmp_path / "mine", tmp_path / "gone")
    after = LaMemoLanguageModel.from_pretrained(str(tmp_path / "model"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "model", tmp_path / "elsewhere" / "model")
    moved = LaMemoLanguageModel.from_pretrained(str(tmp_path / "elsewhere" / "model"))
    for lm in (after, moved):
        assert lm.encode(SENTENCE).tolist() == before.encode(SENTENCE).tolist()
        assert lm.decode(lm.encode(SENTENCE)) == before.decode(before.encode(SENTENCE))
        assert lm.decode(lm.encode(SENTENCE)).split() == SENTENCE.split()
    shutil.move(tmp_path / "gone", tmp_path / "mine")
    assert_same(before, moved, SENTENCE)
    card = (tmp_path / "elsewhere" / "model" / "README.md").read_text(encoding="utf-8")
    assert "train: 1,184 characters" in card and "| updates | 2 |" in card
    (command,) = re.findall(r"^fairseq-interactive (.*?)\n```", card, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path / "elsewhere")  # where the card's name of the directory is its path
    words = shlex.split(command.replace("\\\n", " ").replace("--user-dir $(lamemo user-dir)", ""))
    done = run("interactive", *words, "--max-len-b", 3, "--beam", 1, input=SENTENCE + "\n")
    (plain,) = re.findall(r"^D-0\t\S+\t(.*)", done.stdout, re.MULTILINE)
    assert plain.split()[:5] == SENTENCE.split()[:5]


@pytest.mark.parametrize(
    "command, flags, typed",
    [
        ("eval-lm", "--gen-subset test", None),
        ("interactive", "--max-len-b 9 --bpe text_characters", "the value\n"),
        # Slow: the same reader again.
        pytest.param(
            *("generate", "--prefix-size 8 --max-len-b 9 --beam 2 --gen-subset test", None), marks=pytest.mark.slow
        ),
        pytest.param("validate", "--valid-subset valid --batch-size 1", None, marks=pytest.mark.slow),
    ],
)
def test_fairseqs_commands_take_it(
    command: str, flags: str, typed: Optional[str], corpus: Path, checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    assert lamemo("export", checkpoint, model, "--bpe", "text_characters") == 0

    def lines(data: Path, path: Path) -> List[str]:
        common = ("--task", "memory_language_modeling", "--tokens-per-sample", 16, "--path", path)
        done = run(command, data, *common, *flags.split(), input=typed)
        found = re.findall(r"^[HDP]-\d.*|targets in the split.*|loss [\d.]+ .*bpc [\d.]+", done.stdout, re.MULTILINE)
        assert found, done.stdout
        return found

    expected = lines(corpus, checkpoint)
    assert lines(corpus, model if typed is None else model / "model.safetensors") == expected
    if command == "interactive":  # which needs a dictionary alone
        assert lines(model, model) == expected


def test_the_page_in_python(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its programs run, and the one without fairseq computes what the other does."""
    page = (ROOT / "examples" / "sharing" / "README.md").read_text(encoding="utf-8")
    with_fairseq, without = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    assert lamemo("export", checkpoint, "runs/shakespeare-lamemo", "--bpe", "text_characters") == 0
    exec(compile(with_fairseq, "README.md", "exec"), {})
    capsys.readouterr()
    exec(compile(without, "README.md", "exec"), {})
    score = LaMemoLanguageModel.from_pretrained("runs/shakespeare-lamemo").score("the value of")
    assert capsys.readouterr().out == f"{score['positional_scores'].sum()!r}\n"


def test_training_goes_on_from_it(corpus: Path, checkpoint: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    assert lamemo("export", checkpoint, tmp_path / "model") == 0
    runs = []
    for name, path in (("from", checkpoint), ("again", weights.parent)):
        flags = ("--finetune-from-model", path, "--max-update", 1, "--disable-validation")
        runs.append(run("train", corpus, *TINY, *flags, "--save-dir", tmp_path / name))
    one, other = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("from", "again"))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    flags = ("--finetune-from-model", corpus, "--save-dir", tmp_path / "no")
    done = run("train", corpus, *TINY, *flags, check=False)
    assert done.returncode == 1 and f"error: {corpus} is a directory, not a checkpoint" in done.stdout
    done = run("train", corpus, *TINY, "--restore-file", weights, "--save-dir", tmp_path / "no", check=False)
    assert done.returncode == 1
    assert f"error: --restore-file {weights} is an exported model, without optimizer" in done.stdout


def test_tied_weights_documents_and_half_precision(corpus: Path, tmp_path: Path) -> None:
    tied = "--adaptive-softmax-cutoff 10,20 --adaptive-input --tie-adaptive-weights --tie-adaptive-proj".split()
    flags = [*TINY, *tied, "--criterion", "memory_cross_entropy", "--memory-reset", "document", "--max-update", 2]
    run("train", corpus, *flags, "--disable-validation", "--save-dir", tmp_path)
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}  # as --fp16 saves them
    torch.save(state, tmp_path / "model.pt")
    text = ("--data", corpus, "--bpe", "text_characters")
    sizes = []
    for name in ("checkpoint_last", "model"):
        before = LaMemoLanguageModel.from_pretrained(
            str(tmp_path), f"{name}.pt", data_name_or_path=str(corpus), bpe="text_characters"
        )
        assert lamemo("export", tmp_path / f"{name}.pt", tmp_path / name, *text) == 0
        assert_same(before, LaMemoLanguageModel.from_pretrained(str(tmp_path / name)), "the value\n\n\nof a class")
        weights = tmp_path / name / "model.safetensors"
        with safe_open(weights, "pt") as file:
            elements = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
        model = load_pretrained(str(tmp_path / name))
        assert model.separator is not None
        own = sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])
        assert elements == own, "tied weights stand there once"
        sizes.append(weights.stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
