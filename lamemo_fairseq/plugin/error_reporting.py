"""How errors reach a user of fairseq's commands: as one line, without a traceback.

Mistakes that this package finds are ``UsageError``. A few that only fairseq or torch can meet (a damaged
checkpoint, say) are recognised by the function in which they were raised.
"""

import difflib
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any, Dict, NoReturn, Optional, Type

import torch
from hydra._internal import utils as hydra_utils
from hydra.errors import CompactHydraException
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue
from torch.multiprocessing import ProcessRaisedException

from ..core.errors import UsageError
from ..data.text_form import missing_encoder
from ..generation.flags import different_beams


def explain(error: BaseException) -> Optional[str]:
    """One line for a user's mistake, None for anything else."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, UsageError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    for find in EXPLANATIONS:
        line = find(error)
        if line is not None:
            return line
    return None


def raised_in(error: BaseException, function: str) -> Optional[Dict[str, Any]]:
    """The variables of the ``function`` that the error passed on its way, None where it did not."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == function:
            return frame.f_locals
    return None


def refuse_flag(message: str) -> NoReturn:
    """Raises argparse's ``message`` as a ``UsageError``; of more choices than a line takes, those that look alike."""
    found = re.fullmatch(r"argument (--[\w-]+)\S*: invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
    if found is None:
        raise UsageError(f"{message.removeprefix('argument ')} (--help lists all flags)")
    flag, value, choices = found[1], found[2], re.findall(r"[^\s,']+", found[3])
    alike = choices if len(choices) <= 8 else difflib.get_close_matches(value, choices, n=8, cutoff=0.8)
    way_out = f"choose {', '.join(alike)}" if alike else "--help lists what is"
    raise UsageError(f"{flag} {value} is not known: {way_out}")


def explain_rank(error: BaseException) -> Optional[str]:
    """The line of a process that fairseq started for one of several GPUs, whose traceback comes as text."""
    found = re.findall(rf"^{UsageError.__module__}\.{UsageError.__name__}: (.*)$", str(error), re.MULTILINE)
    return found[-1] if isinstance(error, ProcessRaisedException) and found else None


def explain_flags(error: BaseException) -> Optional[str]:
    """One line for flags that fairseq asks for in its own way."""
    if isinstance(error, AssertionError) and str(error).startswith("Must specify batch size"):
        return "no batch size: give --batch-size (streams per rank), or --max-tokens (their tokens per batch)"
    if isinstance(error, AssertionError) and str(error).startswith("Pass-through schedule"):
        return "--lr-scheduler pass_through needs an optimizer with a schedule of its own: choose another schedule"
    if isinstance(error, ConfigKeyError) and raised_in(error, "_build_optimizer") is not None:
        return "--optimizer composite takes groups of parameters from a file of fairseq-hydra-train: choose another one"
    if isinstance(error, ValueError) and str(error).startswith("Seed must be between 0 and"):
        return "--seed is not in 0 to 4294967295: choose another one"
    if raised_in(error, "build_fp32_params") is not None and not torch.cuda.is_available():
        return "--fp16 needs a GPU, and there is none: leave it out, or add --fp16-no-flatten-grads"
    if raised_in(error, "get_tpu_device") is not None:
        return "fairseq takes --bf16 (and --tpu) without a GPU for a TPU, and there is none: leave it out"
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        flag = "--" + str(error.full_key).split(".")[-1].replace("_", "-")
        return f"{flag} is missing: {str(error.object_type_str)[: -len('Config')]} needs it"
    return None


def explain_sampling(error: BaseException) -> Optional[str]:
    """One line for what fairseq's commands find before they ask for a generator: as ``generation/flags.py`` says it."""
    if not isinstance(error, AssertionError) or not str(error).startswith("--sampling requires --nbest"):
        return None
    flags = (raised_in(error, "main") or {})["cfg"].generation
    return different_beams(flags.nbest, flags.beam)


def explain_codes(error: BaseException) -> Optional[str]:
    """One line for a tokenizer or BPE that lacks its package, or its file (fairseq looks for it in the network too)."""
    if isinstance(error, ImportError):
        return missing_encoder(error)
    found = raised_in(error, "cached_path")
    if found is not None and isinstance(error, OSError):
        return f"{found['url_or_filename']} is no file: name the one that the data was made with (--bpe-codes or alike)"
    return None


def explain_metric(error: BaseException) -> Optional[str]:
    """One line for a number that validation does not log."""
    found = raised_in(error, "validate") if isinstance(error, KeyError) else None
    if found is None or "stats" not in found or error.args[0] in found["stats"]:
        return None
    logged = ", ".join(sorted(name for name in found["stats"] if not name.startswith("_")))
    return f"--best-checkpoint-metric {error.args[0]} is not logged: choose one of {logged}"


def explain_input(error: BaseException) -> Optional[str]:
    """One line for prompts that ``fairseq-interactive`` cannot read."""
    found = raised_in(error, "buffered_read")
    if found is None:
        return None
    if isinstance(error, UnicodeDecodeError):
        return f"--input {found['input']} is not UTF-8: convert it, for instance with iconv -f latin1 -t utf-8"
    if isinstance(error, OSError):
        return f"--input {found['input']} cannot be read ({error.strerror}): name a text file, a prompt per line"
    return None


def explain_checkpoint(error: BaseException) -> Optional[str]:
    """One line for a checkpoint that fairseq cannot read."""
    if str(error).startswith("Model file not found: "):
        return f"--path {str(error)[len('Model file not found: ') :]} is no file: name a checkpoint"
    found = raised_in(error, "load_checkpoint_to_cpu")
    if found is None:
        return None
    if "state" in found:
        return f"{found['path']} is no checkpoint of fairseq: lamemo import converts one of the authors' program"
    # What torch raises depends on where the file breaks off; a file that is missing says so itself.
    if not isinstance(error, (FileNotFoundError, PermissionError, MemoryError)):
        return f"{found['path']} is truncated or damaged, or no checkpoint at all: use another one"
    return None


def explain_log(error: BaseException) -> Optional[str]:
    """One line for a log that cannot be written."""
    if not isinstance(error, OSError) or error.filename is None:
        return None
    found = raised_in(error, "_writer")
    if found is not None and "_writers" in found:  # of tensorboard
        folder = found["self"].tensorboard_logdir
        return f"--tensorboard-logdir {folder} cannot be written to ({error.strerror}): name another"
    cfg = (raised_in(error, "main") or {}).get("cfg")
    path = getattr(getattr(cfg, "common", None), "log_file", None)
    if path is not None and os.path.abspath(path) == os.path.abspath(error.filename):
        return f"--log-file {path} cannot be written to ({error.strerror}): name a file in a folder that is there"
    return None


EXPLANATIONS = (
    *(explain_rank, explain_checkpoint, explain_input, explain_flags, explain_sampling),
    *(explain_codes, explain_metric, explain_log),
)


def install() -> None:
    """Has the interpreter print :func:`explain`'s line where there is one, and hydra that of ``UsageError``."""
    previous = sys.excepthook

    def hook(kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
        line = explain(error)
        if line is None:
            previous(kind, error, trace)
        else:
            print(f"error: {line}", file=sys.stderr)

    sys.excepthook = hook
    # Hydra catches all errors itself, and prints those of this one type by their message alone.
    setattr(hydra_utils, "CompactHydraException", (CompactHydraException, UsageError))  # noqa: B010
