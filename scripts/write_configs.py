#!/usr/bin/env python3
"""Writes examples/*/config from the table in lamemo_fairseq/plugin/presets.py: a file per size, a group of variants."""

from pathlib import Path
from typing import Any, Dict

import yaml

from lamemo_fairseq.plugin.presets import SIZES, VARIANTS
from lamemo_fairseq.plugin.recipes import hydra_config, variant_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MADE = "# Made by scripts/write_configs.py from lamemo_fairseq/plugin/presets.py: change it there.\n"
HEADER = """\
# fairseq-hydra-train --config-dir {folder} --config-name {name} \\
#     task.data=/abs/path/to/data-bin common.user_dir=/abs/path/to/lamemo_fairseq [+variant=NAME]
"""


def dump(values: Dict[str, Any]) -> str:
    """As YAML."""
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=False))


def files() -> Dict[Path, str]:
    """Each file, and what stands in it."""
    made = {}
    for size, what in SIZES.items():
        folder, name = EXAMPLES / what.example / "config", f"lamemo_{size}"
        header = HEADER.format(folder=folder.relative_to(EXAMPLES.parent), name=name)
        made[folder / f"{name}.yaml"] = MADE + header + dump(hydra_config(size))
        for variant in VARIANTS:
            text = f"# @package model\n{MADE}" + dump(variant_config(variant))
            made[folder / "variant" / f"{variant}.yaml"] = text
    return made


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(EXAMPLES.parent))
