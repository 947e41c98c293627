"""Memory kinds, by the name that ``--memory-type`` takes."""

from typing import Dict, Type

from .base import Memory, MemoryState, Recall, SegmentRecord
from .lookahead import LookAheadMemory
from .none import NoMemory
from .recurrence import RecurrenceMemory

KINDS: Dict[str, Type[Memory]] = {
    "lookahead": LookAheadMemory,
    "recurrence": RecurrenceMemory,
    "none": NoMemory,
}

__all__ = ["KINDS", "Memory", "MemoryState", "Recall", "SegmentRecord"]
