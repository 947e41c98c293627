"""The kinds of memory that studies compare, as flags of ``fairseq-train``."""

from typing import Callable, Dict, List

#: kind -> its flags with M slots to read: what it does with them is its own affair, nothing else differs
KINDS: Dict[str, Callable[[int], List[str]]] = {
    "lookahead": lambda M: ["--memory-type", "lookahead", "--mem-len", str(M)],
    "recurrence": lambda M: ["--memory-type", "recurrence", "--mem-len", str(M)],
    "compressive": lambda M: [
        *("--memory-type", "compressive", "--mem-len", str(M // 2), "--compressed-mem-len", str(M - M // 2)),
        *("--compression-rate", "4"),
    ],
    "continuous": lambda M: [
        *("--memory-type", "continuous", "--mem-len", str(M // 2), "--long-term-basis", str(M - M // 2)),
    ],
    "none": lambda M: ["--memory-type", "none", "--mem-len", str(M)],
    "continuous-sticky": lambda M: [*KINDS["continuous"](M), "--long-term-sticky"],
    # Look-ahead taken apart: gradient without sight, sight without gradient.
    "refresh": lambda M: [*KINDS["lookahead"](M), "--look-ahead", "none"],
    "detached": lambda M: [*KINDS["lookahead"](M), "--detach-memory"],
}
#: those that are compared where nobody names any
USUAL = ["lookahead", "recurrence", "compressive", "continuous", "none"]
