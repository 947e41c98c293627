"""How plain text becomes tokens: what ``lamemo prepare`` left beside data, or ``lamemo export`` beside a model.

Needs no fairseq.
"""

import json
import os
from typing import Dict, Optional

from ..core.errors import UsageError
from ..core.pretrained import CONFIG, WEIGHTS, read_config
from .counts import CORPUS_FILE

#: units of a corpus -> fairseq's encoder
CODECS = {"characters": "text_characters", "bytes": "text_bytes"}
#: files in a data-bin -> fairseq's encoder, and its option for them
PIECES = {"codes": ("fastbpe", "bpe_codes"), "spm.model": ("sentencepiece", "sentencepiece_model")}
#: fairseq's options that name such a file -> its name
FILES = {option: name for name, (_, option) in PIECES.items()}

#: what to do where fastBPE is missing: with pip's usual isolation its build finds no Cython, and fails
INSTALL_FASTBPE = (
    "fastBPE is not installed: pip install Cython setuptools, then pip install --no-build-isolation fastBPE (it needs "
    "a C++ compiler)"
)


def missing_encoder(error: ImportError) -> Optional[str]:
    """One line for a tokenizer or BPE of fairseq whose package is missing; None: the error is about something else."""
    if not str(error).startswith("Please install"):
        return None
    if "fastBPE" in str(error):
        return f"--bpe fastbpe cannot be used, {INSTALL_FASTBPE}"
    return f"a package is missing. {error}"


def text_form(folder: str) -> Dict[str, str]:
    """Fairseq's options for text like that of a data-bin or of an exported model, by the names of its configuration.

    Characters and bytes have ``bpe``; pieces of words ``bpe`` and the option that names their file; what Moses
    tokenized ``tokenizer``, ``source_lang`` and ``target_lang``. Empty for words between white space, and for data
    of ``fairseq-preprocess``.

    Raises:
        UsageError: the record cannot be read.
    """
    if os.path.isfile(os.path.join(folder, WEIGHTS)):
        return form_of_model(folder)
    path = os.path.join(folder, CORPUS_FILE)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        units, moses, extras = found.get("units"), found.get("moses"), found.get("extras", {})
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no record of a corpus ({error}): prepare the data again, or remove it") from None
    options: Dict[str, str] = {}
    if units in CODECS:
        options["bpe"] = CODECS[units]
    for name, (encoder, option) in PIECES.items():
        if name in extras:
            options.update({"bpe": encoder, option: os.path.join(folder, name)})
    if moses is not None:
        options.update(tokenizer="moses", source_lang=moses, target_lang=moses)
    return options


def form_of_model(directory: str) -> Dict[str, str]:
    """The options in ``config.json`` of an exported model, whose files are in its directory.

    Only options of text pass, and only files that the export wrote: a directory may come from anywhere.
    """
    config = read_config(directory)
    text = config.get("text")
    others = {"bpe", "tokenizer", "source_lang", "target_lang"}
    if not isinstance(text, dict) or not text.keys() <= FILES.keys() | others:
        raise UsageError(f"{os.path.join(directory, CONFIG)} has no options of text, or more: copy the directory anew")
    for name, value in text.items():
        if not isinstance(value, str) or (name in FILES and value not in config["sha256"]):
            raise UsageError(f"{os.path.join(directory, CONFIG)} has {name} {value!r}: copy the directory anew")
    return {name: os.path.join(directory, value) if name in FILES else value for name, value in text.items()}
