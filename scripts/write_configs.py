#!/usr/bin/env python3
"""Writes lamemo_fairseq/config from the table in plugin/presets.py: a file per size, a group of variants."""

from pathlib import Path
from typing import Any, Dict

import yaml

from lamemo_fairseq.plugin.presets import SIZES, VARIANTS
from lamemo_fairseq.plugin.recipes import hydra_config, variant_config

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "lamemo_fairseq" / "config"
MADE = "# Made by scripts/write_configs.py from lamemo_fairseq/plugin/presets.py: change it there.\n"
HEADER = """\
# fairseq-hydra-train --config-name {name} task.data=/abs/path/to/data-bin [+variant=NAME]
"""


def dump(values: Dict[str, Any]) -> str:
    """As YAML."""
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=False))


def files() -> Dict[Path, str]:
    """Each file, and what stands in it."""
    made = {
        FOLDER / f"lamemo_{size}.yaml": MADE + HEADER.format(name=f"lamemo_{size}") + dump(hydra_config(size))
        for size in SIZES
    }
    for variant in VARIANTS:
        text = f"# @package model\n{MADE}" + dump(variant_config(variant))
        made[FOLDER / "variant" / f"{variant}.yaml"] = text
    return made


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
