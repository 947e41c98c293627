"""The dictionary of running text, and whether a checkpoint and the data have the same one."""

import hashlib
from typing import Any, Dict

from fairseq.data import Dictionary

from ..core.errors import UsageError


class TextDictionary(Dictionary):
    """Fairseq's dictionary, in which ``</s>`` is a symbol of the text, and shown where it stands."""

    def string(self, *args: Any, **kwargs: Any) -> str:
        """As fairseq's, with ``</s>``."""
        return super().string(*args, **{**kwargs, "include_eos": True})


def identify(dictionary: Dictionary) -> Dict[str, Any]:
    """What a checkpoint keeps of its dictionary: the number of symbols, and a hash of them in order."""
    symbols = "\n".join(dictionary.symbols).encode("utf-8")
    return {"types": len(dictionary), "sha256": hashlib.sha256(symbols).hexdigest()}


def check_same(kept: Dict[str, Any], dictionary: Dictionary, data: str) -> None:
    """Raises ``UsageError`` where ``kept``, from a checkpoint, is not ``dictionary``, from ``data``."""
    own = identify(dictionary)
    if not isinstance(kept, dict) or not own.keys() <= kept.keys():
        raise UsageError("the checkpoint's `task_state` has no dictionary of the form that is written: use another one")
    if kept != own:
        differs = "the same number of symbols, but not the same" if kept["types"] == own["types"] else "another size"
        raise UsageError(
            f"the checkpoint's dictionary ({kept['types']} types, {kept['sha256'][:8]}) is not that of {data} "
            f"({own['types']} types, {own['sha256'][:8]}): it has {differs}; name the data that the model was "
            "trained on, or preprocess these with its dict.txt (--srcdict)"
        )
