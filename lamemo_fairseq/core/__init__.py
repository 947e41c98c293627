"""Language models with memory, on torch alone.

:class:`MemoryTransformer` is the model, :class:`ModelConfig` what it is made of, ``memory.KINDS`` what it can remember;
:func:`load_pretrained` reads a directory that ``lamemo export`` wrote (with safetensors).
"""

from .config import ModelConfig
from .documents import Separator
from .errors import UsageError
from .memory import KINDS, MemoryState
from .network import Auxiliary, MemoryTransformer, ModelOutput
from .pretrained import load_pretrained
from .vocabulary import VocabularyOptions

__all__ = [
    "KINDS",
    "Auxiliary",
    "MemoryState",
    "MemoryTransformer",
    "ModelConfig",
    "ModelOutput",
    "Separator",
    "UsageError",
    "VocabularyOptions",
    "load_pretrained",
]
