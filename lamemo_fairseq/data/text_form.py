"""How plain text becomes the tokens of a data-bin, as ``lamemo prepare`` wrote it down beside the data; no fairseq."""

import json
import os
from typing import Dict, Optional

from ..core.errors import UsageError
from .counts import CORPUS_FILE

#: files in a data-bin -> fairseq's encoder, and its option for them
PIECES = {"codes": ("fastbpe", "bpe_codes"), "spm.model": ("sentencepiece", "sentencepiece_model")}

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


def text_form(data_bin: str) -> Dict[str, str]:
    """Fairseq's options for text like that of ``data_bin``, by the names of its configuration.

    Characters have ``bpe``; pieces of words ``bpe`` and the option that names their file; what Moses tokenized
    ``tokenizer``, ``source_lang`` and ``target_lang``. Empty for words between white space, and for data of
    ``fairseq-preprocess``.

    Raises:
        UsageError: the record cannot be read, or the tokens are bytes, for which fairseq has no encoder.
    """
    path = os.path.join(data_bin, CORPUS_FILE)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        units, moses, extras = found.get("units"), found.get("moses"), found.get("extras", {})
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no record of a corpus ({error}): prepare the data again, or remove it") from None
    options: Dict[str, str] = {}
    if units == "characters":
        options["bpe"] = "text_characters"
    if units == "bytes":
        raise UsageError(
            f"{data_bin} holds bytes, which are no plain text: use fairseq-generate, or train on characters"
        )
    for name, (encoder, option) in PIECES.items():
        if name in extras:
            options.update({"bpe": encoder, option: os.path.join(data_bin, name)})
    if moses is not None:
        options.update(tokenizer="moses", source_lang=moses, target_lang=moses)
    return options
