"""Tokens to the files that fairseq reads: what ``fairseq-preprocess --only-source`` writes, byte for byte.

It is done here, with numpy alone, because unknown tokens have to be counted, long texts streamed, and data be prepared
where there is no fairseq. The format is that of ``fairseq.data.indexed_dataset.MMapIndexedDataset``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from ...core.errors import UsageError

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # of every dictionary of fairseq, in this order
EOS, UNKNOWN = 2, 3
PADDED_TO = 8  # fairseq-preprocess fills up with madeupwordNNNN to a multiple of this
MAGIC = b"MMIDIDX\x00\x00"
HEAD = struct.Struct("<9sQBQ")  # of an index: magic, version, code of the tokens' type, number of entries
BLOCK = 1 << 20  # entries whose places are reckoned at once
CODES = {np.dtype("uint16"): 8, np.dtype("uint32"): 9}  # of number types, in fairseq's table


def lines_of(path: Path, title: str) -> Iterator[str]:
    """The lines of a file, with a progress bar on a terminal."""
    with (
        open(path, "rb") as file,
        tqdm(total=path.stat().st_size, desc=title, unit="B", unit_scale=True, disable=None, leave=False) as bar,
    ):
        for line in file:
            bar.update(len(line))
            yield line.decode("utf-8")


def count_tokens(path: Path) -> Counter[str]:
    """How often each token stands in a text."""
    counts: Counter[str] = Counter()
    for line in lines_of(path, f"counting {path.name}"):
        counts.update(line.split())
    return counts


def write_dictionary(path: Path, counts: Counter[str]) -> None:
    """``dict.txt`` as fairseq saves it: the most frequent first, equally frequent ones by the alphabet."""
    known = sorted((symbol, count) for symbol, count in counts.items() if symbol not in SPECIAL)
    known.sort(key=lambda pair: -pair[1])
    fill = -(len(SPECIAL) + len(known)) % PADDED_TO
    known += [(f"madeupword{number:04d}", 0) for number in range(fill)]
    path.write_text("".join(f"{symbol} {count}\n" for symbol, count in known), encoding="utf-8")


def read_dictionary(path: Path) -> dict[str, int]:
    """Numbers of the symbols of a ``dict.txt``, as fairseq gives them.

    Raises:
        UsageError: the file cannot be read or is no dictionary.
    """
    numbers = {symbol: number for number, symbol in enumerate(SPECIAL)}
    try:
        text = path.read_text(encoding="utf-8")
        for line in text.removesuffix("\n").split("\n"):
            symbol, count = line.rstrip().rsplit(" ", 1)
            if count == "#fairseq:overwrite":
                symbol, count = symbol.rsplit(" ", 1)
            int(count)
            numbers[symbol] = len(numbers)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its lines are not `symbol count`"
        raise UsageError(f"--dict {path} is no dictionary of fairseq ({reason}): name a model's dict.txt") from error
    return numbers


def binarize(text: Path, prefix: Path, numbers: dict[str, int], line_ends: bool = True) -> tuple[int, int]:
    """``prefix.bin`` and ``prefix.idx`` of a text, a line being an entry, which ``</s>`` ends if ``line_ends``.

    Returns:
        The number of tokens, ``</s>`` included, and how many of them are ``<unk>``.
    """
    kind = np.dtype("uint16" if len(numbers) < 65500 else "uint32")
    tokens = unknown = entries = 0
    with open(prefix.with_suffix(".bin"), "wb") as file, open(prefix.with_suffix(".idx"), "w+b") as index:
        index.write(bytes(HEAD.size))
        for line in lines_of(text, f"binarizing {text.name}"):
            entry = [numbers.get(symbol, UNKNOWN) for symbol in line.split()]
            unknown += entry.count(UNKNOWN)
            if line_ends:
                entry.append(EOS)
            tokens += len(entry)
            entries += 1
            file.write(np.array(entry, dtype=kind).tobytes())
            index.write(struct.pack("<i", len(entry)))
        finish_index(index, entries, kind)
    return tokens, unknown


def finish_index(file: IO[bytes], entries: int, kind: np.dtype) -> None:
    """Completes an index that has its entries' sizes in tokens: the header, and where entries begin in bytes.

    Block by block, since a large corpus has hundreds of millions of lines.
    """
    begin = 0
    for block in range(0, entries, BLOCK):
        file.seek(HEAD.size + 4 * block)
        sizes = np.frombuffer(file.read(4 * min(BLOCK, entries - block)), dtype="<i4").astype(np.int64)
        ends = begin + np.cumsum(sizes)
        file.seek(HEAD.size + 4 * entries + 8 * block)
        file.write(((ends - sizes) * kind.itemsize).astype("<i8").tobytes())
        begin = int(ends[-1])
    file.seek(0)
    file.write(HEAD.pack(MAGIC, 1, CODES[kind], entries))
