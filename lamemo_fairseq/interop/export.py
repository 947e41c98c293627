"""``lamemo export``: a trained checkpoint as a directory to hand on, without optimizer and memory.

::

    DIR/model.safetensors    weights, by the names of core.MemoryTransformer
    DIR/config.json          core.ModelConfig ("model"), the flags of fairseq's model, task and criterion ("fairseq"),
                             how text is cut ("text"), hashes of the files ("sha256")
    DIR/dict.txt             symbols; and codes or spm.model, where words were cut into pieces
    DIR/README.md            the model card

Read by ``core/pretrained.py`` (no fairseq) and ``training/exported.py`` (fairseq's commands).
"""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Optional

from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ..core.config import ModelConfig
from ..core.documents import Separator
from ..core.errors import UsageError
from ..core.pretrained import CONFIG, FORMAT, WEIGHTS, config_to_json, save_weights, sha256
from ..data.dictionary import TextDictionary, check_same, identify
from ..data.text_form import FILES
from ..plugin.config import LaMemoConfig, MemoryLanguageModelingConfig, plain
from ..plugin.recipes import fields
from ..training.exported import PREFIX
from ..training.saved_run import other_flags
from .model_card import card, settings_of

DICT = "dict.txt"
CARD = "README.md"


@dataclass(frozen=True)
class Facts:
    """What a checkpoint does not know of its model.

    Attributes:
        text: fairseq's options of tokenizer and BPE, as ``data/text_form.py`` gives them.
        scores: by name, for the card.
        license: of the weights, as the hub writes it (``mit``, ``cc-by-4.0`` ...).
    """

    text: Dict[str, str] = field(default_factory=dict)
    scores: Dict[str, str] = field(default_factory=dict)
    license: str = "unknown"


@dataclass(frozen=True)
class Trained:
    """A checkpoint, fairseq's configuration ``cfg`` in it as plain values, and what is made of them."""

    state: Dict[str, Any]
    cfg: Dict[str, Any]
    flags: LaMemoConfig
    task: MemoryLanguageModelingConfig
    dictionary: Dictionary
    model: ModelConfig

    @staticmethod
    def read(checkpoint: str, data: str) -> "Trained":
        """The checkpoint, with the dictionary in ``data``. Raises ``UsageError`` where they do not fit."""
        if not os.path.isfile(checkpoint):
            raise UsageError(f"CHECKPOINT {checkpoint} is no file: name a checkpoint")
        if os.path.basename(checkpoint) == WEIGHTS:
            raise UsageError(f"CHECKPOINT {checkpoint} is exported already: copy its directory")
        state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)
        cfg = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
        assert isinstance(cfg, dict)
        groups = {str(name): group for name, group in cfg.items()}
        if "memory_type" not in groups["model"]:
            raise UsageError(f"CHECKPOINT {checkpoint} holds {groups['model'].get('_name')}: export takes a lamemo_lm")
        for kind, name in ((LaMemoConfig, "model"), (MemoryLanguageModelingConfig, "task")):
            check_types(kind, known(kind, groups[name]), checkpoint)
        flags = LaMemoConfig(**known(LaMemoConfig, groups["model"]))
        flags.check()
        task = MemoryLanguageModelingConfig(**known(MemoryLanguageModelingConfig, groups["task"]))
        dictionary = read_dictionary(os.path.join(data, DICT))
        if "dictionary" in state.get("task_state", {}):
            check_same(state["task_state"]["dictionary"], dictionary, data)
        separator = None
        if plain(task.memory_reset) == "document":
            separator = Separator.of(dictionary, task.document_separator)
        model = flags.model(len(dictionary), task.tokens_per_sample, separator, dictionary.pad())
        return Trained(state, groups, flags, task, dictionary, model)

    def weights(self) -> Dict[str, Tensor]:
        """Weights by the core's names."""
        other = [name for name in self.state["model"] if not name.startswith(PREFIX)]
        if other:
            raise UsageError(f"the checkpoint holds {other[0]}, which no lamemo_lm has: export takes a lamemo_lm")
        return {name[len(PREFIX) :]: tensor for name, tensor in self.state["model"].items()}

    def for_fairseq(self) -> Dict[str, Any]:
        """What fairseq needs beside the weights, without what belongs to the machine that trained."""
        task = {**own_values(self.task), "data": None, "csv_log": None}
        return {
            "model": {"_name": "lamemo_lm", **own_values(self.flags)},
            "task": {"_name": "memory_language_modeling", **task},
            "criterion": self.cfg["criterion"],
            "dictionary": identify(self.dictionary),
        }


def export(checkpoint: str, directory: str, data: str, facts: Optional[Facts] = None) -> None:
    """Writes the directory, whole or not at all.

    Args:
        checkpoint: of a training with this plugin, or of ``lamemo import``.
        directory: does not exist yet, or is empty.
        data: a folder with the checkpoint's ``dict.txt``; its ``corpus.json`` is told in the card.
        facts: what else there is to say of the model.

    Raises:
        UsageError: a file is missing or not of the model, weights are not finite, or the directory cannot be written.
    """
    facts = Facts() if facts is None else facts
    check_target(directory)
    trained = Trained.read(checkpoint, data)
    with unfinished(directory) as folder:
        save_weights(folder, trained.model, trained.weights())
        shutil.copyfile(os.path.join(data, DICT), os.path.join(folder, DICT))
        text = copy_text_files(facts.text, folder)
        config = {
            "format": FORMAT,
            "model": config_to_json(trained.model),
            "text": text,
            "fairseq": trained.for_fairseq(),
            "sha256": {name: sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder))},
        }
        write(os.path.join(folder, CONFIG), json.dumps(config, indent=1, allow_nan=False) + "\n")
        shutil.copymode(os.path.join(folder, CONFIG), os.path.join(folder, WEIGHTS))  # others may read it too
        name = os.path.basename(os.path.abspath(directory))
        settings = settings_of(trained.state, trained.cfg, trained.model)
        write(os.path.join(folder, CARD), card(name, trained.model, text, settings, data, facts.scores, facts.license))


def check_target(directory: str) -> None:
    """Raises ``UsageError`` where something stands in the directory's place."""
    if os.path.lexists(directory) and (not os.path.isdir(directory) or os.path.islink(directory)):
        raise UsageError(f"DIR {directory} exists and is no directory: name another")
    if os.path.isdir(directory) and os.listdir(directory):
        raise UsageError(f"DIR {directory} is not empty: name another")


@contextmanager
def unfinished(directory: str) -> Iterator[str]:
    """A folder to write to, which becomes ``directory`` in the end, or nothing."""
    where, name = os.path.split(os.path.abspath(directory))
    scratch = os.path.join(where, f".{name}.unfinished")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of an export that was killed
        os.makedirs(scratch)
        yield scratch
        os.replace(scratch, directory)
    except UsageError:
        raise
    except Exception as error:  # a full disk is an error of safetensors' own while it writes
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(f"DIR {directory} cannot be written ({reason}): free room, or name another") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(path: str, text: str) -> None:
    """Writes a text file."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def copy_text_files(text: Dict[str, str], folder: str) -> Dict[str, str]:
    """Copies the codes that ``text`` names; the options with the files' new names."""
    found = dict(text)
    for option, name in FILES.items():
        if option in text:
            if not os.path.isfile(text[option]):
                raise UsageError(f"--{option.replace('_', '-')} {text[option]} is no file: name that of the data")
            shutil.copyfile(text[option], os.path.join(folder, name))
            found[option] = name
    return found


def read_dictionary(path: str) -> Dictionary:
    """The dictionary of a file that is there."""
    if not os.path.isfile(path):
        raise UsageError(f"--data {os.path.dirname(path)} has no dict.txt: name the data-bin of the model's training")
    return TextDictionary.load(path)


def known(kind: Any, values: Dict[str, Any]) -> Dict[str, Any]:
    """Those of ``values`` that a configuration has of its own; ``log_interval`` and others it takes from elsewhere."""
    return {name: values[name] for name in fields(kind) if name in values}


def check_types(kind: Any, values: Dict[str, Any], checkpoint: str) -> None:
    """Raises ``UsageError`` where ``values`` of a checkpoint are not of the types that the flags of ``kind`` have."""
    try:
        OmegaConf.merge(OmegaConf.structured(kind), values)
    except OmegaConfBaseException as error:
        raise other_flags(f"CHECKPOINT {checkpoint}", error) from error


def own_values(config: Any) -> Dict[str, Any]:
    """The values of a configuration as plain ones."""
    return {name: plain(getattr(config, name)) for name in fields(config)}
