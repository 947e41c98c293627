"""A checkpoint's configuration, and a sample of the text that it writes."""

import os
import re
from pathlib import Path
from typing import Any, List, Tuple

from fairseq import checkpoint_utils, utils
from fairseq.data import Dictionary
from sacremoses import MosesDetokenizer

from ..data.directory import load_dictionary
from ..generation.python_api import from_pretrained

# Of the configuration, what made the model what it is.
GROUPS = ("model", "task", "criterion", "optimization", "optimizer", "lr_scheduler")


def spells(dictionary: Dictionary) -> bool:
    """Whether the symbols are characters, as ``data/characters.py`` writes them."""
    seen = [s for s, count in zip(dictionary.symbols, dictionary.count) if count > 0]  # the others fill up to eights
    return all(len(s) == 1 or s.startswith("\\u") for s in seen if s not in dictionary.symbols[: dictionary.nspecial])


def configuration(lm: Any) -> List[Tuple[str, str]]:
    """(flag, value) of what made the model."""
    return [(f"{group}.{name}", str(value)) for group in GROUPS for name, value in sorted(dict(lm.cfg[group]).items())]


def open_checkpoint(path: Path) -> Any:
    """A trained model for text, with the dictionary of the data that it was trained on."""
    data = checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"].task.data
    bpe = {"bpe": "text_characters"} if spells(load_dictionary(utils.split_paths(data)[0])) else {}
    return from_pretrained(str(path.parent), path.name, os.path.abspath(data), **bpe)


def sample(lm: Any, tokens: int, seed: int) -> str:
    """Text that begins a line, drawn at temperature 1, pieces of words joined; the same for the same seed."""
    text = lm.sample("\n", sampling=True, max_len_b=tokens, max_len_a=0, seed=seed, stop_at_eos=False).strip("\n")
    symbols = lm.task.source_dictionary.symbols
    if any(len(symbol) > 2 and symbol.endswith("@@") for symbol in symbols):
        text = re.sub("@@( |$)", "", text, flags=re.MULTILINE)
    # Moses writes an apostrophe as "&apos;": the page shows the text that was meant.
    return MosesDetokenizer().unescape_xml(text) if any("&apos;" in symbol for symbol in symbols) else text
