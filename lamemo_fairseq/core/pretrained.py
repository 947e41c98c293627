"""A model as a directory: weights in ``model.safetensors``, all else in ``config.json``. Needs torch and safetensors.

    model = load_pretrained("DIR")                  # in evaluation mode, float32
    features, state, aux = model(tokens, state)     # as in network.py

``config.json`` holds::

    {"format": 1,
     "model": {"vocab_size": 64, "memory": "lookahead", "options": {...}, ...},    the fields of ModelConfig
     "sha256": {"model.safetensors": "...", "dict.txt": "...", "codes": "..."},    the files that scores depend on
     "text": {...}, "fairseq": {...}, ...}            what the core does not need: see ``interop/export.py``
"""

import hashlib
import json
import os
from dataclasses import MISSING, asdict, fields
from typing import Any, Dict, List, Type, TypeVar

import torch
from torch import Tensor

from .config import ModelConfig
from .documents import Separator
from .errors import UsageError
from .memory import KINDS
from .network import MemoryTransformer
from .vocabulary import VocabularyOptions

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
#: the version of ``config.json`` that is written and read
FORMAT = 1
Record = TypeVar("Record")


def load_pretrained(directory: str) -> MemoryTransformer:
    """The model that ``lamemo export`` left in ``directory``, in float32 and evaluation mode.

    Raises:
        UsageError: a file is missing, damaged, or of another version.
    """
    config = read_config(directory)
    check_files(directory, config)
    return load_weights(directory, config)


def load_weights(directory: str, config: Dict[str, Any]) -> MemoryTransformer:
    """The model of a directory whose ``config.json`` was read and whose files were checked."""
    import_safetensors()
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    model = MemoryTransformer(config_from_json(config["model"], os.path.join(directory, CONFIG)))
    try:
        load_model(model, os.path.join(directory, WEIGHTS))
    except (RuntimeError, SafetensorError) as error:  # names and shapes, or no such file at all
        reason = " ".join(str(error).split())
        raise UsageError(f"{directory}: {WEIGHTS} is not of the model in {CONFIG} ({reason[:200]})") from error
    return model.eval()


def save_weights(directory: str, cfg: ModelConfig, weights: Dict[str, Tensor]) -> None:
    """Writes ``model.safetensors``: ``weights``, by the model's names, in their own type; tied ones stand there once.

    Raises:
        UsageError: the weights are not those of ``cfg``, or not finite.
    """
    import_safetensors()
    from safetensors.torch import save_model

    model = MemoryTransformer(cfg)
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise UsageError(f"{name} of the weights is not that of a model of this configuration")
        if not torch.isfinite(weights[name]).all():
            raise UsageError(f"{name} of the weights has values that are not finite: choose an earlier checkpoint")
    model.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
    model.load_state_dict(weights)
    save_model(model, os.path.join(directory, WEIGHTS))


def import_safetensors() -> None:
    """Raises ``UsageError`` where the package is missing."""
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{WEIGHTS} needs a package that is not installed: pip install safetensors") from error


def read_config(directory: str) -> Dict[str, Any]:
    """``config.json`` of a directory, whose version is known."""
    path = os.path.join(directory, CONFIG)
    if not os.path.isfile(path):
        raise UsageError(f"{directory} has no {CONFIG}: name a directory that lamemo export wrote")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): copy the directory anew") from error
    if not isinstance(config, dict) or "format" not in config:
        raise UsageError(f"{path} is of another program: name a directory that lamemo export wrote")
    if config["format"] != FORMAT:
        raise UsageError(
            f"{path} has format {config['format']!r}, and this version reads {FORMAT}: install a newer one"
        )
    for name in ("model", "sha256"):
        if not isinstance(config.get(name), dict):
            raise UsageError(f"{path} lacks {name}: copy the directory anew")
    return config


def check_files(directory: str, config: Dict[str, Any]) -> None:
    """Raises ``UsageError`` where a file that ``config.json`` names is not the one that was written with it."""
    for name, expected in config["sha256"].items():
        path = os.path.join(directory, name)
        if os.path.basename(name) != name:
            raise UsageError(f"{directory}: {CONFIG} names the file {name}, outside of the directory: do not use it")
        if not os.path.isfile(path):
            raise UsageError(f"{directory} has no {name}, which {CONFIG} names: copy the directory anew")
        if sha256(path) != expected:
            raise UsageError(f"{path} is damaged, or was changed after the export: copy the directory anew")
    if WEIGHTS not in config["sha256"]:
        raise UsageError(f"{directory}: {CONFIG} names no {WEIGHTS}: copy the directory anew")


def sha256(path: str) -> str:
    """The hash of a file, as ``sha256sum`` prints it."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def config_to_json(cfg: ModelConfig) -> Dict[str, Any]:
    """The fields of a configuration as plain values, each kind's own options with their values."""
    options = KINDS[cfg.memory].options_class() if cfg.options is None else cfg.options
    return {**asdict(cfg), "options": asdict(options)}


def config_from_json(values: Dict[str, Any], path: str) -> ModelConfig:
    """The configuration whose fields ``path`` holds. Raises ``UsageError`` where they make no model."""
    kind = values.get("memory")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(f"{path} has memory {kind!r}, which is not known: choose one of {', '.join(KINDS)}")
    values = dict(values)
    values["options"] = record(KINDS[kind].options_class, values.get("options"), path)
    values["vocabulary"] = record(VocabularyOptions, values.get("vocabulary"), path)
    if values.get("separator") is not None:
        values["separator"] = record(Separator, values["separator"], path)
    return record(ModelConfig, values, path)


def record(kind: Type[Record], values: Any, path: str) -> Record:
    """A dataclass of plain values. Raises ``UsageError`` where a field is missing, unknown, or of another type."""
    if not isinstance(values, dict):
        raise UsageError(f"{path} has {values!r} where the fields of {kind.__name__} are due: copy it anew")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown: List[str] = sorted(values.keys() - known.keys())
    if unknown:
        raise UsageError(f"{path} has {unknown[0]}, which this version does not know: install a newer one")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"{path} lacks {name}: copy it anew")
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{path} has values of wrong types ({error}): copy it anew") from error
