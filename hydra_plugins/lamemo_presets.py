"""Presets of lamemo_fairseq by their names alone: ``fairseq-hydra-train --config-name lamemo_wt103_base``.

Hydra imports what stands in the namespace ``hydra_plugins`` before it composes a configuration, in every program of the
environment; in programs other than fairseq's, and for other configurations, nothing is done here. Fairseq imports the
package itself (``common.user_dir``) after composing, in a folder that hydra has changed to: too late for one line about
an unknown variant, and the wrong place for a relative path. So both are looked at here; and hydra's warnings of how
fairseq calls it are left out, but for one that comes before this file is read. Fairseq's commands that read checkpoints
compose a configuration too: where ``--user-dir`` was forgotten, this is the only place that can say so.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import List, NoReturn, Optional, Type

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

PROGRAMS = ("fairseq-hydra-train", "hydra_train")  # fairseq's other commands compose a configuration too
BUILDERS = ("build_model", "setup_task")  # of fairseq, each with its part of a checkpoint's configuration as ``cfg``
READERS = ("fairseq-eval-lm", "fairseq-generate", "fairseq-interactive", "fairseq-validate")
USER_DIR = "common.user_dir="
VARIANT = re.compile(r"\+{0,2}variant=(.*)")


class LaMemoPresets(SearchPathPlugin):
    """Adds the package's ``config`` where ``fairseq-hydra-train`` is asked for one of its configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called once, before anything is composed."""
        program = Path(sys.argv[0]).stem
        if program not in (*PROGRAMS, *READERS):
            return
        package = find_spec("lamemo_fairseq")
        if package is None or package.origin is None:
            return
        user_dir = Path(package.origin).resolve().parent
        if program in READERS:
            explain_missing_user_dir(user_dir)
            return
        from hydra._internal.utils import get_args  # as fairseq's command itself finds the name

        given = get_args()
        name, folder = str(given.config_name), user_dir / "config"
        if not (folder / f"{name}.yaml").is_file():
            check_name(name, given.config_dir, folder)
            return
        check_variants(given.overrides, folder)
        check_user_dir(given.overrides, user_dir)
        leave_out_warnings(name)
        search_path.append("lamemo_fairseq", f"file://{folder}")
        set_user_dir(name, user_dir)


def check_name(name: str, own: Optional[str], folder: Path) -> None:
    """Ends with one line where ``--config-name`` is nearly one of ours, and no file of the user's ``--config-dir``."""
    if name.startswith("lamemo_") and not (own and (Path(own) / f"{name}.yaml").is_file()):
        die(f"--config-name {name} is not known: choose of {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")


def check_variants(overrides: List[str], folder: Path) -> None:
    """Ends with one line where ``+variant=`` names none of ours."""
    known = sorted(path.stem for path in (folder / "variant").glob("*.yaml"))
    for override in overrides:
        found = VARIANT.fullmatch(override)
        for name in found[1].split(",") if found else ():
            if name.strip() not in known:
                die(f"+variant={name} is not known: choose of {', '.join(known)}")


def check_user_dir(overrides: List[str], installed: Path) -> None:
    """Ends with one line where ``common.user_dir`` would not be found."""
    for override in overrides:
        path = override[len(USER_DIR) :]
        if override.startswith(USER_DIR) and not (os.path.isabs(path) and os.path.isdir(path)):
            reason = (
                "is no directory" if os.path.isabs(path) else "is relative, and hydra changes the working directory"
            )
            die(f"{override} {reason}: leave it out, which means {installed}, or write it from the root")


def leave_out_warnings(name: str) -> None:
    """Those of the configuration ``name`` that a user can do nothing about: what hydra 1.2 and later will change."""
    for begin in (
        f"\n'{name}' is validated against ConfigStore schema with the same name",
        "Future Hydra versions will no longer change working directory",
    ):
        warnings.filterwarnings("ignore", message=re.escape(begin))
    logging.getLogger("hydra.core.utils").setLevel(logging.INFO)  # what hydra does inside


def set_user_dir(name: str, user_dir: Path) -> None:
    """Makes ``user_dir`` the default of ``common.user_dir``, in the schema that fairseq has stored for ``name``."""
    from fairseq.dataclass.configs import CommonConfig, FairseqConfig

    ConfigStore.instance().store(name=name, node=FairseqConfig(common=CommonConfig(user_dir=str(user_dir))))


def explain_missing_user_dir(user_dir: Path) -> None:
    """Has one line stand in the place of fairseq's traceback where a checkpoint's model or task is ours, not loaded."""
    previous = sys.excepthook

    def hook(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
        frames = [frame for frame, _ in traceback.walk_tb(trace) if frame.f_code.co_name in BUILDERS]
        found = [frame.f_locals.get("cfg") or () for frame in frames]
        ours = any(field in cfg for cfg in found for field in ("memory_type", "memory_reset"))
        if not ours or "lamemo_fairseq" in sys.modules:
            previous(kind, error, trace)
            return
        flags = f"--user-dir {user_dir} --task memory_language_modeling"
        print(f"error: --path names a checkpoint of lamemo_fairseq, which is not loaded: add {flags}", file=sys.stderr)

    sys.excepthook = hook


def die(message: str) -> NoReturn:
    """Ends with one line, as the plugin's own errors do."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
