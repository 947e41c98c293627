#!/usr/bin/env python3
"""Writes examples/*/config/*.yaml from the table in lamemo_fairseq/plugin/recipes.py."""

from pathlib import Path

import yaml

from lamemo_fairseq.plugin.recipes import RECIPES, hydra_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEADER = """\
# Made by scripts/write_configs.py from lamemo_fairseq/plugin/recipes.py: change it there.
# fairseq-hydra-train --config-dir {folder} --config-name {name} \\
#     task.data=/abs/path/to/data-bin common.user_dir=/abs/path/to/lamemo_fairseq
"""


def render(name: str) -> str:
    """The YAML file of one recipe."""
    folder = f"examples/{RECIPES[name].example}/config"
    body = yaml.safe_dump(hydra_config(RECIPES[name]), sort_keys=False, default_flow_style=False)
    return HEADER.format(folder=folder, name=name) + body


def path(name: str) -> Path:
    """Where it goes."""
    return EXAMPLES / RECIPES[name].example / "config" / f"{name}.yaml"


if __name__ == "__main__":
    for recipe in RECIPES:
        path(recipe).parent.mkdir(parents=True, exist_ok=True)
        path(recipe).write_text(render(recipe), encoding="utf-8")
        print(path(recipe).relative_to(EXAMPLES.parent))
