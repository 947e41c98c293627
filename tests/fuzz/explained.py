"""Tracebacks that the fuzz may meet, each with the reason why it is not ours to mend. Anything else fails."""

import re
from typing import Dict, Optional

#: what the output holds -> why that is no fault of this package
EXPLAINED: Dict[str, str] = {}


def explanation(output: str) -> Optional[str]:
    """Why a traceback in ``output`` is accepted, or None."""
    for pattern, reason in EXPLAINED.items():
        if re.search(pattern, output):
            return reason
    return None


def refusal(output: str) -> bool:
    """Whether ``output`` ends in one line that tells a user's mistake."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return bool(lines) and bool(re.search(r"(^|: )error: ", lines[-1]))
