"""What a part of the benchmark finds."""

import argparse
from dataclasses import dataclass, field
from typing import Callable, Dict, Optional, Sequence


@dataclass(frozen=True)
class Table:
    """What a part found: a title, column heads, rows of as many cells, and ratios by the names that checks know.

    ``figure`` shows the same as SVG, where a part draws one.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Dict[str, float] = field(default_factory=dict)
    figure: Optional[str] = None

    def __str__(self) -> str:
        lines = [list(self.head), *map(list, self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        shown = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
        return "\n".join([self.title, *shown])

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join([f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in lines)])


#: from the options of ``lamemo benchmark`` to a table
Part = Callable[[argparse.Namespace], Table]
