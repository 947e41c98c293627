"""``--csv-log``: what training logs, as comma-separated values.

A file holds one run, which fairseq knows by its ``--save-dir``; each row says which. A run that goes on from a
checkpoint replaces the rows behind it. A run that begins anew, and so replaces the checkpoints of the one before,
begins a new file; the old one is kept under a number. A file of another run is refused.
"""

import csv
import logging
import os
from typing import Any, Dict, List, Tuple

from torch import Tensor

from ..core.errors import UsageError

logger = logging.getLogger(__name__)

#: columns of the file, as far as a row has them
COLUMNS = (
    *("num_updates", "split", "loss", "nll_loss", "ppl", "bits_per_token", "bpc", "alpha"),
    *("gnorm", "lr", "loss_scale", "wps", "ups", "memory_mib", "peak_mib", "run"),
)


class CsvLog:
    """A file to which rows are added; begins with the names of the columns.

    Args:
        path: the file.
        save_dir: where the run writes its checkpoints, by which its rows are known.
        updates: updates that the run has made so far: 0 for one that begins.

    Raises:
        UsageError: the file cannot be written to, or holds something else than this run.
    """

    def __init__(self, path: str, save_dir: str, updates: int) -> None:
        self.path, self.run = path, os.path.abspath(save_dir)
        self.failed = False  # whether a row could not be written: said once
        try:
            rows, whole = read(path)
            self.check(rows)
            if rows and updates == 0:
                set_aside(path)
                rows = []
            kept = [row for row in rows if int(row["num_updates"]) <= updates]
            if not rows:
                write_header(path)
            elif kept != rows or not whole:
                replace(path, kept)
            self.size = os.path.getsize(path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--csv-log {path} cannot be written to ({reason}): name another file") from error

    def check(self, rows: List[Dict[str, Any]]) -> None:
        """Raises ``UsageError`` where ``rows`` are those of another run."""
        others = sorted({row["run"] for row in rows} - {self.run})
        if others:
            raise UsageError(
                f"--csv-log {self.path} holds the log of the run in {others[0]}, not of the one in {self.run}: "
                "name another file"
            )

    def write(self, split: str, stats: Dict[str, Any]) -> None:
        """Adds a row from fairseq's smoothed values. A disk that is full costs the row, not the run."""
        values = {**stats, "split": split, "run": self.run}
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([plain(values.get(column, "")) for column in COLUMNS])
            self.size = os.path.getsize(self.path)
        except OSError as error:
            if not self.failed:
                logger.warning(
                    "--csv-log %s cannot be written to (%s): rows are missing there from update %s on",
                    *(self.path, error.strerror, values["num_updates"]),
                )
            self.failed = True
            if os.path.exists(self.path):
                os.truncate(self.path, self.size)  # no half a row


def read(path: str) -> Tuple[List[Dict[str, Any]], bool]:
    """The rows of the file that is there, and whether no row was cut off at its end, which is left out.

    Raises:
        UsageError: the columns are others.
    """
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return [], True
    with open(path, newline="", encoding="utf-8") as file:
        lines = file.readlines()
    whole = lines[-1].endswith("\n")  # else the run was killed while it wrote
    reader = csv.DictReader(lines if whole else lines[:-1])
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UsageError(f"--csv-log {path} holds other columns than this version's: name another file")
    return list(reader), whole


def set_aside(path: str) -> None:
    """Keeps the file of a run that began anew, under the first number that is free."""
    number = 1
    while os.path.exists(f"{path}.{number}"):
        number += 1
    os.rename(path, f"{path}.{number}")
    logger.info("--csv-log %s is begun anew, as training is; what it held is now %s.%d", path, path, number)


def write_header(path: str) -> None:
    """Begins a file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(COLUMNS)


def replace(path: str, rows: List[Dict[str, Any]]) -> None:
    """Writes the file anew, whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def plain(value: Any) -> Any:
    """A number as such; fairseq keeps some of them as tensors, some as meters."""
    if isinstance(value, Tensor):
        return value.item()
    return value.avg if hasattr(value, "avg") else value
