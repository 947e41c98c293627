"""One table of presets: as architectures, as YAML, and as the quickstart's command line."""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
import write_configs
import yaml
from commands import ROOT
from conftest import USER_DIR, run
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hydra_plugins.lamemo_presets import LaMemoPresets
from lamemo_fairseq.benchmark.paper import Symbols
from lamemo_fairseq.core.memory import KINDS
from lamemo_fairseq.plugin.config import LaMemoConfig, MemoryLanguageModelingConfig
from lamemo_fairseq.plugin.decoder import LaMemoDecoder
from lamemo_fairseq.plugin.presets import PRESETS, SIZES, VARIANTS, Preset
from lamemo_fairseq.plugin.recipes import command_line


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_a_model(name: str) -> None:
    """As an architecture; the model is made of it, without weights."""
    args = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[name](args)
    cfg, preset = LaMemoConfig(**vars(args)), PRESETS[name]
    assert vars(args) == preset.model
    with torch.device("meta"):
        decoder = LaMemoDecoder(cfg, Symbols(SIZES[preset.size].vocabulary), preset.training.tokens_per_sample)
    assert decoder.memory.name == VARIANTS[preset.variant]["memory_type"] == cfg.memory_type


def test_every_kind_and_every_variant_of_the_authors_is_there() -> None:
    assert {variant["memory_type"] for variant in VARIANTS.values()} == set(KINDS)
    made = {(LaMemoConfig(**variant).encoding, variant.get("look_ahead")) for variant in VARIANTS.values()}
    assert {(encoding, None) for encoding in KINDS["lookahead"].encodings} <= made and ("disentangled", "full") in made
    assert len({tuple(sorted(variant.items())) for variant in VARIANTS.values()}) == len(VARIANTS)


@pytest.mark.parametrize("memory_type", sorted(KINDS))
def test_a_kind_wins_over_a_preset(memory_type: str) -> None:
    args = argparse.Namespace(memory_type=memory_type)
    for size in SIZES:
        ARCH_CONFIG_REGISTRY[f"lamemo_lm_{size}"](args)
        LaMemoConfig(**vars(args)).check()
        assert args.memory_type == memory_type


def test_a_flag_wins_over_a_preset() -> None:
    args = argparse.Namespace(mem_len=7)
    ARCH_CONFIG_REGISTRY["lamemo_lm_enwik8_base"](args)
    assert args.mem_len == 7 and args.decoder_layers == 12


def test_the_authors_sizes() -> None:
    """Those of their run scripts."""
    cfg = LaMemoConfig(**PRESETS["lamemo_lm_wt103_base"].model)
    assert (cfg.decoder_layers, cfg.decoder_embed_dim, cfg.head_dim, cfg.decoder_ffn_embed_dim) == (16, 410, 41, 2100)
    for variant in VARIANTS:
        for size, tokens, batch, updates in (
            ("wt103_base", 150, 32, 250_000),
            ("enwik8_base", 512, 20, 50_000),
            ("text8_base", 512, 20, 50_000),
        ):
            preset = PRESETS[f"{variant}_lm_{size}"]
            training = preset.training
            assert preset.model["mem_len"] == training.tokens_per_sample == tokens
            assert (training.batch_size, training.max_update, training.random_offset) == (batch, updates, True)
            assert (training.lr, training.warmup_updates) == (2.5e-4, 0)
            assert LaMemoConfig(**preset.model).dropout == 0.1


def test_yaml_is_what_the_table_says() -> None:
    files = write_configs.files()
    for path, text in files.items():
        assert path.read_text() == text, path
    assert set((ROOT / "lamemo_fairseq" / "config").rglob("*")) - {write_configs.FOLDER / "variant"} == set(files)


# The table is their product: each size and each variant once will do.
@pytest.mark.parametrize("name", [*(f"lamemo_lm_{size}" for size in SIZES), *(f"{one}_lm_small" for one in VARIANTS)])
def test_yaml_and_command_line_mean_the_same(name: str, corpus: Path) -> None:
    preset = PRESETS[name]
    words = [str(corpus), "--user-dir", USER_DIR, *command_line(preset)]
    parsed = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    for group, values in composed(preset).items():
        for field, value in values.items():
            if value == "???":  # the user's to say
                continue
            found = parsed[group][field]
            if (group, field) == ("model", "_name"):  # YAML spells out what the architecture stands for
                found = "lamemo_lm" if found in PRESETS else found
            assert found == value, (group, field)


def composed(preset: Preset) -> Dict[str, Any]:
    """The YAML of a size with that of a variant, as hydra puts them together."""
    folder = write_configs.FOLDER
    size = yaml.safe_load((folder / f"lamemo_{preset.size}.yaml").read_text())
    variant = (folder / "variant" / f"{preset.variant}.yaml").read_text()
    assert variant.startswith("# @package model\n")
    return {**size, "model": {**size["model"], **yaml.safe_load(variant)}}


def hydra_train(corpus: Path, folder: Path, *changes: str) -> "subprocess.CompletedProcess[str]":
    """``fairseq-hydra-train`` as the README of the example has it."""
    words = [Path(sys.executable).with_name("fairseq-hydra-train"), "--config-name", "lamemo_small"]
    words += [f"task.data={corpus}", f"hydra.run.dir={folder}/run", *changes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True)


def test_hydra_trains_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    done = hydra_train(corpus, tmp_path, "optimization.max_update=3", f"checkpoint.save_dir={tmp_path}/hydra")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    # Hydra's warning at fairseq's own decorator comes before any plugin is read; all others are left out.
    noted = re.findall(r".*(?:Warning|WARNING|DEBUG).*", done.stdout + done.stderr)
    assert all("fairseq_cli/hydra_train.py" in line for line in noted), noted
    run("train", corpus, *command_line(PRESETS["lamemo_lm_small"]), "--max-update", 3, "--save-dir", tmp_path / "line")
    one, other = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("hydra", "line")
    )
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_every_field_of_the_plugin_may_be_overridden(corpus: Path, tmp_path: Path) -> None:
    """Plainly, as hydra's own fields: each stands in the YAML of each recipe, or takes another group's value."""
    for size in SIZES:
        name = write_configs.FOLDER / f"lamemo_{size}.yaml"
        written = yaml.safe_load(name.read_text())
        for group, config in {"model": LaMemoConfig, "task": MemoryLanguageModelingConfig}.items():
            linked = {field.name for field in dataclasses.fields(config) if str(field.default).startswith("${")}
            assert {field.name for field in dataclasses.fields(config)} == written[group].keys() | linked, name
            assert not written[group].keys() & linked
    written = yaml.safe_load((write_configs.FOLDER / "lamemo_small.yaml").read_text())
    changes = [
        f"{group}.{field}=7" for group in ("model", "task", "optimizer", "lr_scheduler") for field in written[group]
    ]
    done = hydra_train(corpus, tmp_path, *changes, "--cfg", "job")
    assert done.returncode == 0, done.stderr[-2000:]
    composed = yaml.safe_load(done.stdout)
    for group in ("model", "task", "optimizer", "lr_scheduler"):
        assert set(composed[group].values()) == {7}


@pytest.mark.slow  # eight trainings in a process of hydra's own
def test_multirun_trains_each_variant(corpus: Path, tmp_path: Path) -> None:
    """Over the presets of a size, and a memory length beside; all with one criterion."""
    changes = ["+variant=" + ",".join(VARIANTS), f"hydra.sweep.dir={tmp_path}/sweep", "model.mem_len=16"]
    done = hydra_train(corpus, tmp_path, *changes, "optimization.max_update=2", "--multirun")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for number, values in enumerate(VARIANTS.values()):
        path = tmp_path / "sweep" / str(number) / "checkpoints" / "checkpoint_last.pt"
        model = torch.load(path, weights_only=True)["cfg"]["model"]
        assert {name: model[name] for name in values} == values and model["mem_len"] == 16


@pytest.mark.slow  # two trainings in a process of hydra's own
def test_multirun_trains_each_kind(corpus: Path, tmp_path: Path) -> None:
    """Each in its own directory, with a best checkpoint of its own, though one process trains them all."""
    changes = ["model.memory_type=recurrence,none", f"hydra.sweep.dir={tmp_path}/sweep", "optimization.max_update=2"]
    done = hydra_train(corpus, tmp_path, *changes, "optimization.lr=[1e-5],[1e-6]", "--multirun")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kinds = []
    for number in range(4):
        folder = tmp_path / "sweep" / str(number) / "checkpoints"
        kinds.append(torch.load(folder / "checkpoint_best.pt", weights_only=True)["cfg"]["model"]["memory_type"])
        assert torch.load(folder / "checkpoint_last.pt", weights_only=True)["optimizer_history"][-1]["num_updates"] == 2
    assert kinds == ["recurrence", "recurrence", "none", "none"]


@pytest.mark.parametrize(
    "change, line",
    [
        ("model.mem_len=-1", "--mem-len -1 is too small: choose 0 or more"),
        ("model._name=lamemo_lm_huge", "model._name=lamemo_lm_huge is no architecture: choose lamemo_lm, or one of "),
        ("task.data=data-bin", "data directory data-bin has no dict.txt (seen from {run}; hydra changes to a folder "),
    ],
    ids=["value", "unknown preset", "relative path"],
)
def test_hydra_shows_mistakes_in_one_line(corpus: Path, tmp_path: Path, change: str, line: str) -> None:
    done = hydra_train(corpus, tmp_path, change)
    assert done.returncode == 1
    assert any(said.startswith(line.format(run=tmp_path / "run")) for said in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "change, line",
    [
        (
            ["+variant=lahmemo"],
            "+variant=lahmemo is not known: choose of compressive, infinity_former, lamemo, ",
        ),
        (["+variant=lamemo,lahmemo", "--multirun"], "+variant=lahmemo is not known: choose of compressive"),
        (["common.user_dir=lamemo_fairseq"], "common.user_dir=lamemo_fairseq is relative, and hydra changes the work"),
        (["common.user_dir=/none"], f"common.user_dir=/none is no directory: leave it out, which means {USER_DIR}, or"),
        (["--config-name", "lamemo_huge"], "--config-name lamemo_huge is not known: choose of lamemo_enwik8_base, "),
    ],
    ids=["variant", "one of several variants", "relative user_dir", "no user_dir", "preset"],
)
def test_before_hydra_composes(
    change: List[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Hydra calls what stands in its namespace of plugins, here in this process: one line, and nothing is written."""
    words = ["fairseq-hydra-train", "--config-name", "lamemo_small", f"task.data={tmp_path}", *change]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(tmp_path)
    (plugin,) = (one for one in Plugins.instance().discover(SearchPathPlugin) if one.__name__ == "LaMemoPresets")
    with pytest.raises(SystemExit) as end:
        plugin().manipulate_search_path(ConfigSearchPathImpl())
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith(f"error: {line}") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["other"], ["fairseq-hydra-train"], ["fairseq-hydra-train", "--config-name", "x"]])
def test_other_programs_and_configurations_are_left_alone(words: List[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [*words, "+variant=mine", "common.user_dir=mine"])
    path = ConfigSearchPathImpl()
    LaMemoPresets().manipulate_search_path(path)
    assert path.get_path() == []


def test_a_configuration_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name of our kind, in a folder of the user's."""
    (tmp_path / "lamemo_mine.yaml").write_text("task: {}\n")
    monkeypatch.setattr(
        "sys.argv", ["fairseq-hydra-train", "--config-dir", str(tmp_path), "--config-name", "lamemo_mine"]
    )
    LaMemoPresets().manipulate_search_path(ConfigSearchPathImpl())
