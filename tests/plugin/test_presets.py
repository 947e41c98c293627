"""One table of presets: as architectures, as YAML, and as the quickstart's command line."""

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import write_configs
import yaml
from commands import ROOT
from conftest import USER_DIR, run
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY

from lamemo_fairseq.core.memory import KINDS
from lamemo_fairseq.plugin.config import LaMemoConfig, MemoryLanguageModelingConfig
from lamemo_fairseq.plugin.presets import PRESETS
from lamemo_fairseq.plugin.recipes import RECIPES, command_line


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("memory_type", sorted(KINDS))
def test_presets_make_a_model(name: str, memory_type: str) -> None:
    args = argparse.Namespace(memory_type=memory_type)
    ARCH_CONFIG_REGISTRY[name](args)
    cfg = LaMemoConfig(**vars(args))
    cfg.check()
    assert cfg.encoding == KINDS[memory_type].encodings[0]
    for field, value in PRESETS[name].items():
        assert getattr(cfg, field) == value


def test_a_flag_wins_over_a_preset() -> None:
    args = argparse.Namespace(mem_len=7)
    ARCH_CONFIG_REGISTRY["lamemo_lm_enwik8_base"](args)
    assert args.mem_len == 7 and args.decoder_layers == 12


def test_the_authors_sizes() -> None:
    cfg = LaMemoConfig(**PRESETS["lamemo_lm_wt103_base"])
    assert (cfg.decoder_layers, cfg.decoder_embed_dim, cfg.head_dim, cfg.decoder_ffn_embed_dim) == (16, 410, 41, 2100)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_yaml_is_what_the_table_says(name: str) -> None:
    assert write_configs.path(name).read_text() == write_configs.render(name)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_yaml_and_command_line_mean_the_same(name: str, corpus: Path) -> None:
    words = [str(corpus), "--user-dir", USER_DIR, *command_line(RECIPES[name])]
    parsed = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    for group, values in yaml.safe_load(write_configs.render(name)).items():
        for field, value in values.items():
            if value == "???":  # the user's to say
                continue
            found = parsed[group][field]
            if (group, field) == ("model", "_name"):  # YAML spells out what the architecture stands for
                found = "lamemo_lm" if found in PRESETS else found
            assert found == value, (group, field)


def hydra_train(corpus: Path, folder: Path, *changes: str) -> "subprocess.CompletedProcess[str]":
    """``fairseq-hydra-train`` as the README of the example has it."""
    words = [Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir"]
    words += [ROOT / "examples/shakespeare/config", "--config-name", "lamemo_small", f"task.data={corpus}"]
    words += [f"common.user_dir={USER_DIR}", f"hydra.run.dir={folder}/run", *changes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True)


def test_hydra_trains_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    done = hydra_train(corpus, tmp_path, "optimization.max_update=3", f"checkpoint.save_dir={tmp_path}/hydra")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    run("train", corpus, *command_line(RECIPES["lamemo_small"]), "--max-update", 3, "--save-dir", tmp_path / "line")
    one, other = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("hydra", "line")
    )
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_every_field_of_the_plugin_may_be_overridden(corpus: Path, tmp_path: Path) -> None:
    """Plainly, as hydra's own fields: each stands in the YAML of each recipe, or takes another group's value."""
    for name in RECIPES:
        written = yaml.safe_load(write_configs.path(name).read_text())
        for group, config in {"model": LaMemoConfig, "task": MemoryLanguageModelingConfig}.items():
            linked = {field.name for field in dataclasses.fields(config) if str(field.default).startswith("${")}
            assert {field.name for field in dataclasses.fields(config)} == written[group].keys() | linked, name
            assert not written[group].keys() & linked
    written = yaml.safe_load(write_configs.path("lamemo_small").read_text())
    changes = [
        f"{group}.{field}=7" for group in ("model", "task", "optimizer", "lr_scheduler") for field in written[group]
    ]
    done = hydra_train(corpus, tmp_path, *changes, "--cfg", "job")
    assert done.returncode == 0, done.stderr[-2000:]
    composed = yaml.safe_load(done.stdout)
    for group in ("model", "task", "optimizer", "lr_scheduler"):
        assert set(composed[group].values()) == {7}


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


def test_hydra_shows_mistakes_in_one_line(corpus: Path, tmp_path: Path) -> None:
    done = hydra_train(corpus, tmp_path, "model.mem_len=-1")
    assert done.returncode == 1
    assert "--mem-len -1 is too small: choose 0 or more" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
