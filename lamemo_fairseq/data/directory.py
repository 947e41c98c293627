"""A data-bin: its dictionary, its splits, and whether their files are as long as they ought to be.

Fairseq maps a split's file into memory. Where that file becomes shorter under a running program, the operating system
ends it without a word (SIGBUS) as soon as it reads what is gone.
"""

import os
import struct
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from fairseq.data import Dictionary, data_utils

from ..core.errors import UsageError
from .dictionary import TextDictionary
from .text import Text

#: how an index of fairseq's memory-mapped data begins: magic, version, code of the tokens' type, number of lines
HEADER = struct.Struct("<9sQBQ")
MAGIC = b"MMIDIDX\x00\x00"
#: bytes of a token, by the code of its type in the index
TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 8, 8: 2, 9: 4, 10: 8}
#: of a line, the index has its length (4 bytes) and where it begins (8)
LINE_BYTES = 12


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, as they were when it was loaded.

    Attributes:
        found: of each file its size in bytes and its number in the file system: another file may take its name.
    """

    found: Dict[str, Tuple[int, int]]

    @staticmethod
    def of(*prefixes: str) -> "SplitFiles":
        """Looks at the files now. ``prefixes`` are their paths without ``.bin`` and ``.idx``.

        Raises:
            UsageError: one is shorter than its index says.
        """
        found = {}
        for prefix in prefixes:
            index, data = f"{prefix}.idx", f"{prefix}.bin"
            found.update({path: size_and_number(path) for path in (index, data) if os.path.exists(path)})
            for path, least in zip((index, data), (sizes_by_index(index) if index in found else None) or ()):
                if path in found and found[path][0] < least:
                    raise UsageError(
                        f"{path} is cut short ({found[path][0]} of {least} bytes): preprocess the data again"
                    )
        return SplitFiles(found)

    def check(self) -> None:
        """Raises ``UsageError`` where a file has become shorter, so that reading on would end the process."""
        for path, (size, number) in self.found.items():
            now, other = size_and_number(path) if os.path.exists(path) else (size, number)
            if now < size and other == number:  # what was replaced or removed is still there for who has it open
                raise UsageError(
                    f"{path} has shrunk from {size} to {now} bytes since the run began: stop whatever writes there, "
                    "preprocess the data again, and the same command goes on from the last checkpoint"
                )


def size_and_number(path: str) -> Tuple[int, int]:
    """Bytes of a file, and its number in the file system."""
    found = os.stat(path)
    return found.st_size, found.st_ino


def sizes_by_index(path: str) -> Optional[Tuple[int, int]]:
    """Bytes that an index and its data must have; None for other forms of data than the memory-mapped one.

    An index that ends in its own header is short whatever the header says.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
        if not header.startswith(MAGIC[: len(header)]) or not header:
            return None
        if len(header) < HEADER.size:
            return HEADER.size, 0
        _, _, code, lines = HEADER.unpack(header)
        whole = HEADER.size + lines * LINE_BYTES
        if code not in TOKEN_BYTES or size < whole:
            return whole, 0
        if lines == 0:
            return whole, 0
        file.seek(HEADER.size + 4 * (lines - 1))
        length = int.from_bytes(file.read(4), "little", signed=True)
        file.seek(whole - 8)
        start = int.from_bytes(file.read(8), "little", signed=True)
    return whole, start + length * TOKEN_BYTES[code]


def load_split(
    directory: str, split: str, dictionary: Dictionary, form: Optional[str], combine: bool
) -> Tuple[Text, SplitFiles]:
    """A split as one text, and the files that it is read from.

    Args:
        directory: that fairseq-preprocess made.
        split: e.g. ``train``.
        dictionary: of its symbols.
        form: ``--dataset-impl``; None: what the files say.
        combine: whether ``train1``, ``train2`` ... belong to it.

    Raises:
        UsageError: the split is not there, empty, or cut short.
    """
    path = os.path.join(directory, split)
    if not os.path.isfile(f"{path}.bin"):
        raise UsageError(no_split(split, directory))
    if os.path.getsize(f"{path}.bin") == 0:
        raise UsageError(f"split {split} in {directory} is empty: preprocess some text")
    parts = [path]
    while combine and os.path.exists(f"{path}{len(parts)}.bin"):
        parts.append(f"{path}{len(parts)}")
    files = SplitFiles.of(*parts)
    return Text(data_utils.load_indexed_dataset(path, dictionary, form, combine=combine), split), files


def no_split(split: str, folder: str) -> str:
    """The line for a split that a data directory does not have."""
    has = sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".bin")) if os.path.isdir(folder) else []
    listed = f"it has {', '.join(has)}" if has else "it has none"
    kind = split.rstrip("0123456789")
    made = f"; fairseq-preprocess makes it from --{kind}pref" if kind in ("train", "valid", "test") else ""
    return f"split {split} is not in {folder}: {listed}{made}"


def load_dictionary(directory: Optional[str]) -> Dictionary:
    """The dictionary of a data directory."""
    if not directory:
        raise UsageError("no data directory: name the one that fairseq-preprocess made")
    path = os.path.join(directory, "dict.txt")
    if not os.path.isfile(path):
        moved = (
            f" (seen from {os.getcwd()}; hydra changes to a folder of its own)" if not os.path.isabs(directory) else ""
        )
        raise UsageError(f"data directory {directory} has no dict.txt{moved}: name the one that was prepared")
    return TextDictionary.load(path)
