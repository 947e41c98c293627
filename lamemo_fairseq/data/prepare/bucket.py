"""Files of a public bucket of Google's storage: listed with their sizes and sums, then downloaded as archives are."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from ...core.errors import UsageError
from .fetch import TIMEOUT, USER_AGENT, Archive, download, quiet

AT_ONCE = 8  # downloads: a file is small, and most of its time is waiting


@dataclass(frozen=True)
class Bucket:
    """A bucket that anybody may list.

    Attributes:
        name: of the bucket.
        server: where it is.
    """

    name: str
    server: str = "https://storage.googleapis.com"

    def files(self, folder: str, pattern: str) -> Iterator[Archive]:
        """The files ``folder/NAME`` whose names are of the form ``pattern``."""
        page: dict[str, str] = {}
        while True:
            listed = self.ask({"prefix": f"{folder}/", "fields": "items(name,size,md5Hash),nextPageToken", **page})
            for item in listed.get("items", []):
                name = item["name"].removeprefix(f"{folder}/")
                if re.fullmatch(pattern, name):
                    url = f"{self.server}/{self.name}/{quote(item['name'])}"
                    md5 = base64.b64decode(item["md5Hash"]).hex()
                    yield Archive(name, (url,), size=int(item["size"]), md5=md5)
            if "nextPageToken" not in listed:
                return
            page = {"pageToken": listed["nextPageToken"]}

    def ask(self, parameters: dict[str, str]) -> Any:
        """A page of the list (objects.list of the storage's JSON interface).

        Raises:
            UsageError: the server does not answer, or not with a list.
        """
        import requests

        quiet()
        url, headers = f"{self.server}/storage/v1/b/{self.name}/o", {"User-Agent": USER_AGENT}
        try:
            response = requests.get(url, params=parameters, headers=headers, timeout=TIMEOUT)
            response.raise_for_status()
            return response.json()
        except (requests.RequestException, ValueError) as error:
            raise UsageError(f"gs://{self.name} cannot be listed ({type(error).__name__}): run again") from error


def fetch(files: list[Archive], folder: Path) -> None:
    """Downloads files into ``folder``, some at a time; those that are there already are checked."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        done = pool.map(lambda file: download(file, folder, shown=False), files)
        for _ in tqdm(done, total=len(files), desc=f"fetching {folder.name}", unit=" files", disable=None, leave=False):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
