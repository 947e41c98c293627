"""Advisory lock on a directory of checkpoints: one training at a time writes into it.

The lock is the operating system's, so that it is gone with its process, however that ended. Who holds it stands in a
file beside it, for the message that another run gets.
"""

import json
import logging
import os
import socket
import time
from typing import Any, Dict, Optional

from filelock import FileLock, Timeout

from ..core.errors import UsageError

logger = logging.getLogger(__name__)
# Fairseq's commands let everybody's debug messages through.
logging.getLogger("filelock").setLevel(logging.INFO)

#: the file that is locked, and the one that says by whom
LOCK, OWNER = ".training.lock", ".training.json"
#: seconds to wait for what a killed run leaves behind for a moment, such as processes that read its data
PATIENCE = 20.0


def lock_save_dir(save_dir: str) -> Optional[FileLock]:
    """Locks ``save_dir`` for as long as the lock that is returned is kept, at most until the process ends.

    A later run of the same process (``--multirun``) shares the lock. Where the file system knows no locks, a warning
    says so, and None is returned.

    Raises:
        UsageError: another training writes there.
    """
    lock = FileLock(os.path.join(save_dir, LOCK), timeout=0, is_singleton=True)
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            owner = read_owner(save_dir)
            if is_alive(owner) or time.monotonic() > give_up:
                raise UsageError(
                    f"--save-dir {save_dir} is written to by another training{describe(owner)}: "
                    "name another --save-dir, or end that one first"
                ) from None
            time.sleep(0.2)
        except (OSError, NotImplementedError) as error:
            logger.warning(
                "--save-dir %s: no lock can be had there (%s), so that a second training into it would not be noticed",
                save_dir,
                error,
            )
            return None
    with open(os.path.join(save_dir, OWNER), "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
    return lock


def read_owner(save_dir: str) -> Dict[str, Any]:
    """Who wrote last that it holds the lock; empty where that cannot be told."""
    try:
        with open(os.path.join(save_dir, OWNER), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def is_alive(owner: Dict[str, Any]) -> bool:
    """Whether the owner may still run: on another machine that cannot be told."""
    if not owner or owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


def describe(owner: Dict[str, Any]) -> str:
    """The owner, as a part of a sentence."""
    if not owner:
        return ""
    return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})"
