"""``lamemo export``: a directory scores and writes as its checkpoint did, with fairseq and without, for any text."""

import json
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import torch
from commands import ROOT, context, start_server
from conftest import TINY, run
from interpreters import BLOCKED, fresh
from safetensors import safe_open

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.cli.main import main
from lamemo_fairseq.core import load_pretrained
from lamemo_fairseq.core.errors import UsageError
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
def test_text_is_remembered(name: str, tmp_path: Path) -> None:
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


def damage(folder: Path, what: str, file: str) -> None:
    """Removes a file, or changes it."""
    path = folder / file
    if what == "removed":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "dict.txt"])
@pytest.mark.parametrize("what", ["removed", "cut", "flipped"])
def test_what_is_not_whole_is_refused(exported: Path, what: str, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported / "lookahead", folder)
    damage(folder, what, file)
    for load in (load_pretrained, LaMemoLanguageModel.from_pretrained):
        with pytest.raises(UsageError) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"format": 2}, "has format 2, and this version reads 1"),
        ({"format": None}, "has format None"),
        ({"model": {"memory": "mine"}}, "has memory 'mine', which is not known"),
        ({"model": {"width": 3}}, "has width, which this version does not know"),
        ({"model": {"options": None}}, "has None where the fields of LookAheadOptions are due"),
        ({"model": {"dim": 16}}, "model.safetensors is not of the model in config.json"),
        ({"sha256": {"../x": "0"}}, "names the file ../x, outside of the directory"),
        ({"text": {"user_dir": "/tmp"}}, "has no options of text, or more"),
        ({"text": {"bpe_codes": "/etc/passwd"}}, "has bpe_codes '/etc/passwd'"),
        ({"fairseq": None}, "lacks what fairseq needs"),
        ({"sha256": {"model.safetensors": "@dict.txt"}}, "model.safetensors is not of the model in config.json"),
    ],
)
def test_a_configuration_that_is_none(exported: Path, change: Dict[str, Any], line: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported / "lookahead", folder)
    config = json.loads((folder / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    if config["sha256"]["model.safetensors"] == "@dict.txt":  # no weights at all, under a hash that is theirs
        shutil.copy(folder / "dict.txt", folder / "model.safetensors")
        config["sha256"]["model.safetensors"] = config["sha256"]["dict.txt"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError) as caught:
        LaMemoLanguageModel.from_pretrained(str(folder))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def with_change(path: Path, change: Any) -> Path:
    """An old checkpoint, changed."""
    state = torch.load(OLD / "lookahead.pt", weights_only=True)
    change(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "words, line",
    [
        (["{nowhere}", "{new}"], "CHECKPOINT {nowhere} is no file"),
        (["{old}", "{full}", "--data", "{data}"], "DIR {full} is not empty"),
        (["{old}", "{infinite}", "--data", "{data}"], "DIR {infinite} exists and is no directory"),
        (["{old}", "{infinite}/new", "--data", "{data}"], "DIR {infinite}/new cannot be written (Not a directory)"),
        (["{infinite}", "{new}", "--data", "{data}"], "embed_tokens.weight of the weights has values that are not"),
        (["{other}", "{new}", "--data", "{data}"], "CHECKPOINT {other} holds transformer_lm"),
        (["{dict}", "{new}", "--data", "{data}"], "{dict} is truncated or damaged"),
        (["{old}", "{new}", "--data", "{full}"], "the checkpoint's dictionary (64 types"),
        (["{old}", "{new}", "--data", "{empty}"], "--data {empty} has no dict.txt"),
        (["{moved}", "{new}"], "--data is missing"),
        (["{old}", "{new}", "--data", "{data}", "--bpe", "mine"], "--bpe mine is not known"),
        (["{old}", "{new}", "--data", "{data}", "--bpe-codes", "{nowhere}"], "--bpe-codes {nowhere} is no file"),
        (["{old}", "{new}", "--data", "{data}", "--score", "bpc"], "--score bpc is no NAME=NUMBER"),
        (["{old}", "{new}", "--data", "{data}", "--score", "bpc=nan"], "--score bpc=nan is no NAME=NUMBER"),
    ],
)
def test_mistakes(words: List[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = {name: tmp_path / name for name in ("nowhere", "new", "full", "empty", "infinite", "other", "moved")}
    for name in ("full", "empty"):
        places[name].mkdir()
    (tmp_path / "full" / "dict.txt").write_text("a 1\n")
    places.update(old=OLD / "lookahead.pt", data=OLD / "data-bin", dict=tmp_path / "full" / "dict.txt")
    with_change(tmp_path / "infinite", lambda state: state["model"]["decoder.embed_tokens.weight"].fill_(float("inf")))
    with_change(tmp_path / "moved", lambda state: state["cfg"]["task"].update(data="/nowhere"))
    with_change(tmp_path / "other", lambda state: state["cfg"].update(model={"_name": "transformer_lm"}))
    assert lamemo("export", *(word.format(**places) for word in words)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"lamemo export: {line.format(**places)}"), said
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def export_on_a_small_disk(words: List[str]) -> None:
    """In a fork: files of at most two thousand bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    raise SystemExit(main(words))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    start_server()
    words = ["export", str(OLD / "lookahead.pt"), str(tmp_path / "model"), "--data", str(OLD / "data-bin")]
    process = context.Process(target=export_on_a_small_disk, args=(words,))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert not list(tmp_path.iterdir())
