"""Memory kinds, by the name that ``--memory-type`` takes."""

from typing import Dict, Type

from .base import LayerMemory, LongTermOutput, Memory, MemoryOptions, MemorySizes, MemoryState, SegmentRecord, option
from .compressive import CompressiveMemory
from .continuous import ContinuousMemory
from .lookahead import LookAheadMemory
from .none import NoMemory
from .recurrence import RecurrenceMemory

KINDS: Dict[str, Type[Memory]] = {
    "lookahead": LookAheadMemory,
    "recurrence": RecurrenceMemory,
    "compressive": CompressiveMemory,
    "continuous": ContinuousMemory,
    "none": NoMemory,
}
assert all(kind.name == name for name, kind in KINDS.items())

__all__ = [
    "KINDS",
    "LayerMemory",
    "LongTermOutput",
    "Memory",
    "MemoryOptions",
    "MemorySizes",
    "MemoryState",
    "SegmentRecord",
    "option",
]
