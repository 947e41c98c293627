"""Models on the Hugging Face hub: ``lamemo push``, and ``from_pretrained("owner/name")``. Needs ``huggingface-hub``.

What is fetched holds no pickle and no code: weights in safetensors, JSON and plain text, checked by the hashes that
``config.json`` holds. Where the package looks, and for which token, is its own affair (``HF_ENDPOINT``, ``HF_TOKEN``).
"""

import logging
import os
import re
from typing import Any, Optional

from ..core.errors import UsageError
from ..core.pretrained import CONFIG, WEIGHTS, check_files, read_config
from ..data.text_form import PIECES

#: what a directory may hold
FILES = ("README.md", CONFIG, WEIGHTS, "dict.txt", *PIECES)
#: loggers of HTTP clients and locks: importing fairseq turns every library's debugging messages on
CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock", "fsspec")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def local_directory(model: str, revision: Optional[str] = None) -> str:
    """``model`` where that is a path of something; else the directory of ``owner/name``, fetched where it is not yet.

    Args:
        model: a path, or ``owner/name`` on the hub.
        revision: branch, tag or commit there; None: the newest.
    """
    if os.path.exists(model) or REPOSITORY.fullmatch(model) is None:
        if revision is not None:
            raise UsageError(f"revision {revision} is one of a model on the hub, and {model} is none: leave it out")
        return model
    hub = import_hub(f"{model} is no directory, and to look for it on the Hugging Face hub")
    try:
        folder = hub.snapshot_download(model, revision=revision, allow_patterns=list(FILES))
    except Exception as error:  # of several libraries: of HTTP, of the hub, of files
        raise UsageError(
            f"{model} is no directory, and on the Hugging Face hub it cannot be had ({reason(error)}): check the name, "
            "the network, and for private models hf auth login"
        ) from error
    return str(folder)


def push(directory: str, repository: str, private: bool = False) -> str:
    """Uploads an exported directory to ``owner/name``, which is made where there is none; returns its address.

    Raises:
        UsageError: the directory is not whole, or the hub refuses it.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise UsageError(f"{repository} names no model on the hub: write OWNER/NAME")
    check_files(directory, read_config(directory))
    hub = import_hub("pushing")
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=directory, allow_patterns=list(FILES), commit_message="lamemo push"
        )
    except Exception as error:  # as above
        raise UsageError(
            f"{repository} cannot be written to ({reason(error)}): check name and network, and that hf auth login was "
            "done with a token that may write"
        ) from error
    return f"{api.endpoint}/{repository}"


def import_hub(why: str) -> Any:
    """The package; ``UsageError`` where it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"{why} needs a package that is not installed: pip install huggingface-hub") from error
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return huggingface_hub


def reason(error: Exception) -> str:
    """The first line of an error's message, or its name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
