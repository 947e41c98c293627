"""Training curves, from every log that fairseq can write.

Read are the output of ``--log-format`` simple, json or tqdm (which fairseq writes as simple where no terminal is),
``--log-file``, the table of ``--csv-log``, and the event files of ``--tensorboard-logdir``.
"""

import csv
import json
import math
import re
import struct
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

Point = Dict[str, float]

#: what a person is told where a training directory holds no curve
ADVICE = (
    "No log with validations was found, so there is no curve. Flags of fairseq-train that make one: --log-file "
    "DIR/train.log (or its output sent into DIR/train.log), --csv-log DIR/train.csv, --tensorboard-logdir DIR."
)
#: names of the loss in base 2; older logs have the second alone
BITS = ("bits_per_token", "bpc")
LOADED = re.compile(r"Loaded checkpoint .* @ (\d+) updates")
PAIRS = re.compile(r"([a-z_0-9]+)[= ]([-+0-9.e]+|nan|inf)(?=[, ]|$)")
JSON_RECORD = re.compile(r"\{\".*\}")


class Curve:
    """Validations by update, and the seconds of training between log lines.

    Fairseq says how long it trained since its last line, in whole seconds, so that many lines that are close together
    make the sum less exact. A resumed run repeats what came after its checkpoint; the last word on each update counts.
    """

    def __init__(self) -> None:
        self.since: Dict[int, float] = {}
        self.points: Dict[int, Point] = {}

    def resume(self, updates: int) -> None:
        """Training goes on from a checkpoint of so many updates."""
        self.since = {at: spent for at, spent in self.since.items() if at <= updates}

    def train(self, updates: int, seconds: float) -> None:
        """Training reached ``updates`` in so many seconds since the last line."""
        self.since[updates] = seconds

    def validate(self, updates: int, bits: float) -> None:
        """A validation: bits per token (kept under ``bpc``); seconds are NaN where no line of training told any."""
        seconds = sum(self.since.values()) if self.since else math.nan
        self.points[updates] = {"updates": updates, "seconds": seconds, "bpc": bits}

    def sorted(self) -> List[Point]:
        """The validations, by updates."""
        return [self.points[updates] for updates in sorted(self.points)]


def bits_of(values: Dict[str, str], prefix: str = "") -> Optional[float]:
    """Bits per token among a record's values, None where it has none."""
    for name in BITS:
        if values.get(prefix + name):
            return float(values[prefix + name])
    return None


def record(line: str) -> Tuple[str, Dict[str, str]]:
    """What a line says: (``train`` or ``valid``, its values), or an empty name where it is another line."""
    found = JSON_RECORD.search(line)
    if found:
        try:
            values = {name: str(value) for name, value in json.loads(found[0]).items()}
        except ValueError:
            return "", {}  # cut off when the run was killed
        if "valid_num_updates" in values:
            return "valid", {name.replace("valid_", "", 1): value for name, value in values.items()}
        return ("train", values) if "train_wall" in values and "num_updates" in values else ("", {})
    values = dict(PAIRS.findall(line))
    if "num_updates" not in values:
        return "", {}
    if "| valid on 'valid' subset |" in line:
        return "valid", values
    return ("train", values) if "num_updates=" in line and "train_wall" in values else ("", {})


def read_log(log: str) -> List[Point]:
    """Validations in a log in text or JSON: updates, seconds of training, bits per token (``bpc``)."""
    curve = Curve()
    for line in log.splitlines():
        loaded = LOADED.search(line)
        if loaded:
            curve.resume(int(loaded[1]))
            continue
        kind, values = record(line)
        if kind == "train":
            curve.train(int(values["num_updates"]), float(values["train_wall"]))
        bits = bits_of(values) if kind == "valid" else None
        if bits is not None:
            curve.validate(int(values["num_updates"]), bits)
    return curve.sorted()


def read_training(log: str) -> List[Point]:
    """Training itself, at every ``--log-interval``: update, bits per token (``bpc``), tokens per second, seconds.

    After a restart fairseq's clock (``wall``) begins anew: here it goes on.
    """
    points: List[Point] = []
    before = last = 0.0
    for line in log.splitlines():
        point = training_point(line)
        if point is None:
            continue
        if point["wall"] < last:
            before += last
        last = point["wall"]
        points.append({**point, "wall": before + last})
    return points


def training_point(line: str) -> Optional[Point]:
    """The point of :func:`read_training` in a line of a log, or None; ``wall`` is what fairseq's clock says."""
    kind, values = record(line)
    bits = bits_of(values)
    if kind != "train" or bits is None or not {"wps", "wall"} <= values.keys():
        return None
    return {
        "update": float(values["num_updates"]),
        "bpc": bits,
        "wps": float(values["wps"]),
        "wall": float(values["wall"]),
    }


def read_losses(log: str) -> Dict[int, float]:
    """Training loss by update, as logged at every ``--log-interval``."""
    found = (record(line) for line in log.splitlines())
    return {int(values["num_updates"]): float(values["loss"]) for kind, values in found if kind == "train"}


def read_table(path: Path) -> List[Point]:
    """Validations in the table of ``--csv-log``, which says nothing of seconds (NaN)."""
    points: Dict[int, Point] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            bits = bits_of(row)
            if row.get("split") == "valid" and bits is not None:
                updates = int(row["num_updates"])
                points[updates] = {"updates": updates, "seconds": math.nan, "bpc": bits}
    return [points[updates] for updates in sorted(points)]


def events(path: Path) -> Iterator[Tuple[int, str, float]]:
    """(updates, name, value) of the scalars in an event file of tensorboard; a cut-off end is left out."""
    from tensorboardX.proto.event_pb2 import Event  # here: only this format needs it

    content = path.read_bytes()
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        if at + 16 + length > len(content):
            return
        event = Event.FromString(content[at + 12 : at + 12 + length])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield event.step, value.tag, value.simple_value
        at += 16 + length


def read_events(folder: Path) -> List[Point]:
    """Validations in a ``--tensorboard-logdir``, which says nothing exact of seconds (NaN)."""
    points: Dict[int, Point] = {}
    for path in sorted((folder / "valid").glob("events.out.tfevents.*")):
        for updates, name, value in events(path):
            if name in BITS:
                points[updates] = {"updates": updates, "seconds": math.nan, "bpc": value}
    return [points[updates] for updates in sorted(points)]


def find(folder: Path) -> List[Tuple[str, List[Point]]]:
    """(name, curve) of every log with validations in a training directory and the folders in it."""
    found = []
    for path in sorted(folder.rglob("*")):
        points: List[Point] = []
        if path.is_file() and path.suffix in (".log", ".txt", ".jsonl", ".out"):
            points = read_log(path.read_text(encoding="utf-8", errors="replace"))
        elif path.is_file() and path.suffix == ".csv":
            points = read_table(path)
        elif path.is_dir() and path.name == "valid":
            points = read_events(path.parent)
        if points:
            found.append((str(path.relative_to(folder)), points))
    return found
