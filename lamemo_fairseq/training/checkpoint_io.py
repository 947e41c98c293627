"""Atomic checkpoint files with checksums: written whole or not at all, and checked before they are loaded.

A checkpoint of torch is a zip archive with a checksum for each of its parts, which torch does not look at when it
reads: a flipped byte becomes a weight. Nor would that tell of one in the archive's directory. So the comment at the
end of the archive, which is empty otherwise and means nothing to torch, holds a checksum of all bytes before it.
"""

import logging
import os
import re
import shutil
import time
import zipfile
import zlib
from argparse import Namespace
from contextlib import contextmanager
from typing import Any, BinaryIO, Dict, Iterator, Optional, cast

import torch

from ..core.errors import UsageError

logger = logging.getLogger(__name__)

#: how often writing is tried, and seconds between: a network file system may recover
TRIES, PAUSE = 3, 2.5

#: the comment, and what stands in the place of its length while there is none
SEAL = b"lamemo_fairseq crc32 %08x"
SEAL_PATTERN = re.compile(rb"lamemo_fairseq crc32 ([0-9a-f]{8})")
SEAL_LENGTH = len(SEAL % 0)
EMPTY = b"\0\0"


class Summed:
    """A file that keeps the checksum of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.checksum = file, 0

    def write(self, content: bytes) -> int:
        """Writes, as a file does."""
        self.checksum = zlib.crc32(content, self.checksum)
        return self.file.write(content)

    def flush(self) -> None:
        """Hands over to the system what was written."""
        self.file.flush()


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """A name to write to; what was written there takes the place of ``path`` at once, or not at all."""
    written = path + ".tmp"
    try:
        yield written
        with open(written, "rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name without its content
        os.replace(written, path)
    except BaseException:
        if os.path.exists(written):
            os.remove(written)
        raise


def save(content: Any, path: str) -> None:
    """Writes a checkpoint.

    Raises:
        UsageError: where that is impossible (a full disk); the file that was at ``path`` is still there.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with replacing(path) as written:
                write_sealed(content, written)
            return
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            if attempt == TRIES:
                raise could_not_write(path, error) from error
            logger.warning("%s could not be written (%s): trying again", path, error)
            time.sleep(PAUSE)


def without_namespaces(state: Dict[str, Any]) -> Dict[str, Any]:
    """A checkpoint whose flags are plain: older optimizers and schedulers bring a namespace, which torch refuses."""
    groups = state["cfg"]
    if not isinstance(groups, dict):
        return state
    plain = (str, int, float, bool, list, type(None))
    return {
        **state,
        "cfg": {
            name: {key: value for key, value in vars(group).items() if isinstance(value, plain)}
            if isinstance(group, Namespace)
            else group
            for name, group in groups.items()
        },
    }


def write_sealed(content: Any, path: str) -> None:
    """Writes ``content`` as torch does, and the checksum behind it."""
    with open(path, "wb") as file:
        summed = Summed(file)
        torch.save(content, cast(BinaryIO, summed))
        seal = SEAL % summed.checksum
        file.seek(-len(EMPTY), os.SEEK_END)
        file.write(len(seal).to_bytes(len(EMPTY), "little") + seal)


def copy(source: str, path: str) -> bool:
    """Copies a checkpoint, so that at every moment ``path`` is the old one or the new one.

    Raises:
        UsageError: where that is impossible (a full disk); the file that was at ``path`` is still there.
    """
    try:
        with replacing(path) as written:
            shutil.copyfile(source, written)
    except OSError as error:
        raise could_not_write(path, error) from error
    return True


def could_not_write(path: str, error: Exception) -> UsageError:
    """The message for a checkpoint that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return UsageError(
        f"{path} could not be written ({reason}): nothing that was saved before is lost; make room in "
        f"{os.path.dirname(os.path.abspath(path))}, and the same command goes on{advice(path)}"
    )


def is_whole(path: str) -> bool:
    """Whether every byte of a checkpoint is as it was written.

    Where others wrote it, the parts' own checksums decide. Files of torch's format before 1.6 hold none, and pass.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SEAL_LENGTH))
        seal = SEAL_PATTERN.fullmatch(file.read())
        file.seek(0)
        if seal is not None:
            return checksum(file, size - SEAL_LENGTH - len(EMPTY)) == int(seal[1], 16)
        if re.match(rb"\x80[\x02-\x05]", file.read(2)):
            return True
        try:
            with zipfile.ZipFile(file) as archive:
                return not cut_in_comment(path, len(archive.comment)) and archive.testzip() is None
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, KeyError):
            return False


def cut_in_comment(path: str, held: int) -> bool:
    """Whether an archive's comment is longer than the ``held`` bytes of it that are there."""
    with open(path, "rb") as file:
        file.seek(-held - len(EMPTY), os.SEEK_END)
        return int.from_bytes(file.read(len(EMPTY)), "little") != held


def checksum(file: BinaryIO, length: int) -> int:
    """Of the first ``length`` bytes, as of an archive that ends there without a comment."""
    found = 0
    while length > 0:
        content = file.read(min(length, 2**22))
        found = zlib.crc32(content, found)
        length -= len(content)
    return zlib.crc32(EMPTY, found)


def newest_whole(directory: str, but: str) -> Optional[str]:
    """The checkpoint of ``directory`` that was written last among the undamaged ones, other than ``but``."""
    names = [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".pt")]
    names = [name for name in names if os.path.abspath(name) != os.path.abspath(but)]
    for name in sorted(names, key=os.path.getmtime, reverse=True):
        if is_whole(name):
            return name
    return None


def advice(path: str) -> str:
    """What to load instead of ``path``, as the end of a sentence."""
    directory = os.path.dirname(os.path.abspath(path))
    other = newest_whole(directory, but=path) if os.path.isdir(directory) else None
    return "" if other is None else f" (the newest undamaged checkpoint is {other})"


def check_is_file(path: str) -> None:
    """Raises ``UsageError`` where something stands at ``path`` that is no file; nothing may stand there."""
    if not os.path.lexists(path) or os.path.isfile(path):
        return
    if os.path.isdir(path):
        what = "a directory"
    elif os.path.exists(path):
        what = "a pipe, socket or device"
    else:
        what = f"a link to {os.readlink(path)}, where nothing is"
    raise UsageError(f"{path} is {what}, not a checkpoint: remove it or name another")


def check_places(save_dir: str, restore_file: str) -> None:
    """Raises ``UsageError`` where a checkpoint could not be read or written for what stands in its place."""
    for name in os.listdir(save_dir) if os.path.isdir(save_dir) else ():
        if name.endswith((".pt", ".pt.tmp")):
            check_is_file(os.path.join(save_dir, name))
    check_is_file(restore_file)


def check(path: str) -> None:
    """Raises ``UsageError`` where a checkpoint is cut short or damaged."""
    check_is_file(path)
    if is_whole(path):
        return
    other = newest_whole(os.path.dirname(os.path.abspath(path)), but=path)
    way_out = "no other checkpoint there is whole" if other is None else f"the newest undamaged one is {other}"
    raise UsageError(
        f"{path} is truncated or damaged, or no checkpoint at all; nothing was overwritten, and {way_out}: "
        "name another with --restore-file (or --path), or remove this one to start anew"
    )
