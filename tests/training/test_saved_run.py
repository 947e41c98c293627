"""A run that cannot go on from its checkpoint says which flag or part is not as it was."""

import math
import re
from pathlib import Path
from typing import Any, Dict, List

import flag_table
import pytest
import torch
from commands import PLUGIN, Command, assert_same_training, load, losses, preprocess, train
from fairseq import checkpoint_utils
from family import SEGMENT, SIZES, dictionary

from lamemo_fairseq.cli.main import main as lamemo
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import KINDS, MemoryState
from lamemo_fairseq.core.network import MemoryTransformer
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder
from lamemo_fairseq.training.saved_run import Start, check_flags


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("saved"), 500)


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory) -> Path:
    save_dir = tmp_path_factory.mktemp("first") / "run"
    train(data, save_dir, "--max-update", 2)[0].succeed()
    return save_dir / "checkpoint_last.pt"


def place(saved: Path, folder: Path, state: Any = None) -> Path:
    """A directory of its own with the checkpoint, or with ``state``."""
    folder.mkdir()
    if state is None:
        (folder / "checkpoint_last.pt").write_bytes(saved.read_bytes())
    else:
        torch.save(state, folder / "checkpoint_last.pt")
    return folder


def refused(output: str) -> str:
    """The one line of an error."""
    assert "Traceback" not in output, output[-2000:]
    lines = [line for line in output.splitlines() if re.match(r"(\[rank\d\]: )?error: ", line)]
    assert len(lines) == 1, output[-2000:]
    return lines[0]


CHANGES: Dict[str, "tuple[List[Any], str]"] = {
    "width": (["--decoder-embed-dim", 32], "--decoder-embed-dim 32 (was 16)"),
    "kind": (["--memory-type", "recurrence"], "--memory-type recurrence (was lookahead)"),
    "layers": (["--decoder-layers", 1], "--decoder-layers 1 (was 2)"),
    "optimizer": (["--optimizer", "sgd"], "--optimizer sgd (was adam)"),
    "older optimizer": (["--optimizer", "adagrad"], "--optimizer adagrad (was adam)"),
    "criterion": (["--criterion", "memory_cross_entropy"], "--criterion memory_cross_entropy (was cross_entropy)"),
    "fp16": (["--memory-efficient-fp16"], "--memory-efficient-fp16 True (was False)"),
    "amp": (["--amp"], "--amp True (was False)"),
    "ema": (["--store-ema"], "--store-ema True (was False)"),
    "cosine": (["--lr-scheduler", "cosine"], "--lr-scheduler cosine (was fixed)"),
    "plateau": (["--lr-scheduler", "reduce_lr_on_plateau"], "--lr-scheduler reduce_lr_on_plateau (was fixed)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_flag_is_named(data, saved, tmp_path, change):
    flags, told = CHANGES[change]
    folder = place(saved, tmp_path / "run")
    before = (folder / "checkpoint_last.pt").read_bytes()
    line = refused(train(data, folder, "--max-update", 4, *flags)[0].fail())
    assert told in line and str(folder / "checkpoint_last.pt") in line
    assert (folder / "checkpoint_last.pt").read_bytes() == before


#: models whose flags are changed one by one, by what they are made of
MODELS: Dict[str, Dict[str, Any]] = {
    **{kind: {"memory_type": kind} for kind in KINDS},
    "learned distances": {"memory_type": "recurrence", "position_encoding": "shaw"},
    "adaptive": {"adaptive_softmax_cutoff": "9,15", "adaptive_softmax_factor": 2.0},
    "adaptive input": {"adaptive_input": True, "adaptive_softmax_cutoff": "9", "decoder_embed_dim": 16},
}


def build(**flags: Any) -> "tuple[LaMemoConfig, Dict[str, Any]]":
    """Flags as a checkpoint holds them, and the weights of their model."""
    cfg = LaMemoConfig(**flags)
    cfg.check()
    if cfg.learns_distances and cfg.max_distance is None:
        cfg.max_distance = cfg.mem_len + SEGMENT  # as LaMemoLanguageModel.build_model writes it back
    return cfg, LaMemoDecoder(cfg, dictionary(), SEGMENT).state_dict()


@pytest.mark.parametrize("name", MODELS)
def test_every_flag_that_changes_weights_is_named(name):
    """Of all that the fuzz knows, with its values, there and back; None is a size that follows others."""
    own = {**SIZES, **MODELS[name]}
    saved, weights = build(**own)
    named = set()
    for flag, values in {**flag_table.MODEL, **flag_table.KIND.get(name, {})}.items():
        field = flag.replace("-", "_")
        for value in [value for value in values if value not in (None, "nan")]:
            try:
                cfg, others = build(**{**own, field: value})
            except UsageError:
                continue
            if {key: tensor.shape for key, tensor in weights.items()} == {key: t.shape for key, t in others.items()}:
                continue
            for was, now, held, model in ((saved, cfg, weights, others), (cfg, saved, others, weights)):
                state = {"cfg": {"model": vars(was)}, "model": held}
                told = f"--{flag} {getattr(now, field)} (was {getattr(was, field)})"
                with pytest.raises(UsageError, match=re.escape(told)):
                    check_flags(state, "last.pt", {"model": vars(now)}, Start("last.pt", True, True), model)
            named.add(flag)
    always = {"decoder-embed-dim", "decoder-ffn-embed-dim", "decoder-head-dim", "decoder-layers"}
    assert named >= always | ({"memory-type"} if name in KINDS else set()), named


def test_what_may_change_goes_on(data, saved, tmp_path):
    """Rates, schedules, lengths and dropout; and everything but the model where the optimizer begins anew."""
    may = {
        "rate": ["--lr", 0.02, "--lr-scheduler", "manual", "--dropout", 0.3, "--update-freq", 2],
        "reset": ["--optimizer", "sgd", "--criterion", "memory_cross_entropy", "--reset-optimizer"],
    }
    running = [train(data, place(saved, tmp_path / name), "--max-update", 4, *flags)[0] for name, flags in may.items()]
    fine = ["--optimizer", "sgd", "--finetune-from-model", saved, "--max-update", 2]
    running += train(data, tmp_path / "finetuned", *fine)
    assert all("Loaded checkpoint" in command.succeed() for command in running)


@pytest.mark.parametrize("flag", ["--restore-file", "--finetune-from-model"])
def test_a_checkpoint_that_is_not_there(data, tmp_path, flag):
    line = refused(train(data, tmp_path / "run", "--max-update", 2, flag, tmp_path / "none.pt")[0].fail())
    assert f"{flag} {tmp_path / 'none.pt'} does not exist" in line


def test_another_dictionary_of_the_same_size(data, saved, tmp_path):
    other = tmp_path / "bin"
    other.mkdir()
    for file in data.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    first, second, *rest = (data / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("\n".join([second, first, *rest]) + "\n")
    line = refused(train(other, place(saved, tmp_path / "run"), "--max-update", 4)[0].fail())
    assert "the same number of symbols, but not the same" in line


FORMS = {
    "no model": (lambda state: state.pop("model"), "has no weights under `model`"),
    "model of lists": (lambda state: state.update(model={"decoder": [1.0]}), "has no weights in its `model`"),
    "no cfg": (lambda state: state.pop("cfg"), "has no flags under `cfg`"),
    "empty cfg": (lambda state: state.update(cfg={}), "has no flags of task and model in its `cfg`"),
    "cfg is text": (lambda state: state.update(cfg="adam"), "has no flags of task and model in its `cfg`"),
    "model unnamed": (lambda state: state["cfg"].update(model={}), "names no task and model in its `cfg`"),
    "task unnamed": (lambda state: state["cfg"].update(task={}), "names no task and model in its `cfg`"),
    "task_state is text": (lambda state: state.update(task_state="x"), "has no dictionary in its `task_state`"),
    "no sum in it": (
        lambda state: state.update(task_state={"dictionary": {"types": 3}}),
        "`task_state` has no dictionary",
    ),
}
#: what a training does not read, since it has flags of its own
OF_OTHERS = {
    "a size is text": (
        lambda state: state["cfg"]["model"].update(decoder_layers="two"),
        "has flags of another form in its `cfg`: Value 'two'",
    ),
    "no such kind": (
        lambda state: state["cfg"]["model"].update(memory_type="nonesuch"),
        "has flags of another form in its `cfg`: Invalid value 'nonesuch'",
    ),
}
OF_TRAINING = {
    "no name of a criterion": (
        lambda state: state["optimizer_history"][-1].pop("criterion_name"),
        "has no `criterion_name` in its `optimizer_history`",
    ),
    "no updates": (
        lambda state: state["optimizer_history"][-1].pop("num_updates"),
        "has no `num_updates` in its `optimizer_history`",
    ),
    "streams are text": (
        lambda state: state["extra_state"]["train_iterator"].update(streams="x"),
        "has no dictionary in its `streams`",
    ),
    "memory is another": (
        lambda state: state["extra_state"]["train_iterator"]["streams"].update(memory={"tensors": 3}),
        "has no memory of the form that is written",
    ),
    "no history": (lambda state: state.pop("optimizer_history"), "has no `optimizer_history`"),
    "no iterator": (lambda state: state["extra_state"].pop("train_iterator"), "has no `train_iterator`"),
    "no optimizer": (lambda state: state.pop("last_optimizer_state"), "has no `last_optimizer_state`"),
}


@pytest.mark.parametrize("form", [*FORMS, *OF_TRAINING, *OF_OTHERS])
def test_another_form_is_one_line(data, saved, tmp_path, capsys, form):
    """By every command that reads checkpoints."""
    damage, told = {**FORMS, **OF_TRAINING, **OF_OTHERS}[form]
    state = load(saved)
    damage(state)
    folder = place(saved, tmp_path / "run", state)
    path = folder / "checkpoint_last.pt"
    words = [data, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--path", path, "--cpu"]
    prompts = ["--gen-subset", "valid", "--prefix-size", 3, "--max-len-b", 2]
    commands = [] if form in OF_OTHERS else [train(data, folder, "--max-update", 4)[0]]
    if form not in OF_TRAINING:
        commands.append(Command("eval_lm", [*words, "--gen-subset", "valid"], tmp_path / "eval.log"))
        commands.append(Command("generate", [*words, *prompts], tmp_path / "generate.log"))
        for word, more in {
            "score": [data.parent / "valid.txt"],
            "generate": ["--prompt", "a"],
            "export": ["out"],
        }.items():
            assert lamemo([word, *map(str, [path, *more, "--data", data])]) == 1
            line = capsys.readouterr().err.strip().splitlines()[-1]
            assert line.startswith(f"lamemo {word}: ") and told in line
    for command in commands:
        assert told in refused(command.fail())


def test_damage_that_looks_like_another_form_is_called_damage(data, saved, tmp_path):
    """A byte of a key: torch's loader reads the file without complaint, and only its checksum is wrong."""
    folder = place(saved, tmp_path / "run")
    path = folder / "checkpoint_last.pt"
    whole = path.read_bytes()
    assert whole.count(b"optimizer_history") == 1
    path.write_bytes(whole.replace(b"optimizer_history", b"optimizer_hystory"))
    line = refused(train(data, folder, "--max-update", 4)[0].fail())
    assert line.startswith(f"error: {path} is truncated or damaged")


def test_finetuning_behind_the_old_memory(data, tmp_path):
    """The first update's loss is that of the new text's first segment behind the saved memory; a killed run goes on."""
    flags = ["--dropout", 0, "--attention-dropout", 0]
    train(data, tmp_path / "old", *flags, "--lr", 0.05, "--max-update", 15)[0].succeed()
    source = tmp_path / "old" / "checkpoint_last.pt"
    sharp = load(source)  # after so few updates a model hardly attends to anything
    for name, tensor in sharp["model"].items():
        tensor *= 12 if ".attention." in name or "embed_tokens" in name else 1
    torch.save(sharp, source)
    new = preprocess(tmp_path / "new", 400, skip=700)
    (new / "dict.txt").write_bytes((data / "dict.txt").read_bytes())
    words = ["--only-source", "--srcdict", data / "dict.txt", "--workers", 1, "--trainpref", tmp_path / "new/train.txt"]
    Command("preprocess", [*words, "--destdir", new], tmp_path / "log").succeed()
    tuned = [*flags, "--finetune-from-model", source, "--finetune-memory", "--save-interval-updates", 2]
    output = train(new, tmp_path / "tuned", *tuned, "--max-update", 2)[0].succeed()
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(source)], arg_overrides={"data": str(new)})
    task.load_dataset("train")
    streams = load(source)["extra_state"]["train_iterator"]["streams"]
    held = streams["memory"]
    state = MemoryState(held["tensors"], held["length"], held["added"], None)
    assert state.length == 12
    batch = next(iter(task.get_batch_iterator(task.dataset("train"), max_sentences=4).next_epoch_itr(shuffle=False)))
    source_tokens, target = batch["net_input"]["src_tokens"], batch["target"]
    with torch.no_grad():
        features, _, _ = MemoryTransformer.forward(model.decoder.eval(), source_tokens, state)
        nll = -model.decoder.target_log_probs(features.flatten(0, 1), target.flatten()).mean() / math.log(2)
        empty, _, _ = MemoryTransformer.forward(model.decoder, source_tokens)
        other = -model.decoder.target_log_probs(empty.flatten(0, 1), target.flatten()).mean() / math.log(2)
    assert losses(output)[1] == pytest.approx(float(nll), abs=2e-3) and abs(float(nll - other)) > 4e-3
    train(new, tmp_path / "tuned", *tuned, "--max-update", 4)[0].succeed()
    train(new, tmp_path / "whole", *tuned, "--max-update", 4)[0].succeed()
    assert_same_training(tmp_path / "whole" / "checkpoint_last.pt", tmp_path / "tuned" / "checkpoint_last.pt")
    mistakes = {
        "holds the memory of 4 streams": ["--batch-size", 2],
        "holds the memory of another model, with --mem-len 12": ["--mem-len", 5],
        "goes with --memory-reset never alone": ["--memory-reset", "document"],
    }
    for told, more in mistakes.items():
        command = train(new, tmp_path / "no", *tuned, "--max-update", 1, *more)[0]
        assert told in refused(command.fail())
    command = train(new, tmp_path / "no", "--finetune-memory", "--max-update", 1)[0]
    assert "--finetune-memory has no effect without --finetune-from-model" in refused(command.fail())
