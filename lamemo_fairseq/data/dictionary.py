"""Whether a checkpoint and the data speak of the same symbols: what the sizes of tensors cannot tell."""

import hashlib
from typing import Any, Dict

from fairseq.data import Dictionary

from ..core.errors import UsageError


def identify(dictionary: Dictionary) -> Dict[str, Any]:
    """What a checkpoint keeps of its dictionary: the number of symbols, and a hash of them in order."""
    symbols = "\n".join(dictionary.symbols).encode("utf-8")
    return {"types": len(dictionary), "sha256": hashlib.sha256(symbols).hexdigest()}


def check_same(kept: Dict[str, Any], dictionary: Dictionary, data: str) -> None:
    """Raises ``UsageError`` where ``kept``, from a checkpoint, is not ``dictionary``, from ``data``."""
    own = identify(dictionary)
    if kept != own:
        differs = "the same number of symbols, but not the same" if kept["types"] == own["types"] else "another size"
        raise UsageError(
            f"the checkpoint's dictionary ({kept['types']} types, {kept['sha256'][:8]}) is not that of {data} "
            f"({own['types']} types, {own['sha256'][:8]}): it has {differs}; name the data that the model was "
            "trained on, or preprocess these with its dict.txt (--srcdict)"
        )
