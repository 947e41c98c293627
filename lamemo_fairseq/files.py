"""Checkpoint files that survive: written whole or not at all, and checked before they are believed."""

import logging
import os
import shutil
import time
import zipfile
from contextlib import contextmanager
from typing import Any, Iterator, Optional

import torch

from .errors import UsageError

logger = logging.getLogger(__name__)

#: how often writing is tried, and seconds between: a network file system may recover
TRIES, PAUSE = 3, 2.5


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
                torch.save(content, written)
            return
        except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
            if attempt == TRIES:
                raise could_not_write(path, error) from error
            logger.warning("%s could not be written (%s): trying again", path, error)
            time.sleep(PAUSE)


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

    Torch does not compare the checksums that it writes, so that a flipped byte would become a weight. Files of
    torch's format before 1.6 hold none, and pass.
    """
    with open(path, "rb") as file:
        magic = file.read(2)
        if magic in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            return True
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, KeyError):
            return False


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


def check(path: str) -> None:
    """Raises ``UsageError`` where a checkpoint is cut short or damaged."""
    if is_whole(path):
        return
    other = newest_whole(os.path.dirname(os.path.abspath(path)), but=path)
    way_out = "no other checkpoint there is whole" if other is None else f"the newest undamaged one is {other}"
    raise UsageError(
        f"{path} is truncated or damaged, or no checkpoint at all; nothing was overwritten, and {way_out}: "
        "name another with --restore-file (or --path), or remove this one to start anew"
    )
