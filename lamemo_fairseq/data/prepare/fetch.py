"""Archives of well-known corpora, downloaded once from the first mirror that has the right one; resumed if cut off."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tqdm import tqdm

from ...core.errors import UsageError
from .read import file_hash

#: some mirrors refuse what does not look like a browser
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 5  # at each mirror, as long as each brings something
BLOCK = 1 << 16  # bytes, of which a broken connection loses one at most


@dataclass(frozen=True)
class Archive:
    """A file to fetch.

    Attributes:
        name: of the file.
        urls: mirrors, the best first.
        sha256: of the file; None: not known here.
        md5: what is known in its place.
        size: in bytes; None: not known.
        largest: bytes at which a download is given up, where the size is not known.
    """

    name: str
    urls: tuple[str, ...]
    sha256: Optional[str] = None
    size: Optional[int] = None
    largest: int = 2 << 30
    md5: Optional[str] = None

    @property
    def sum(self) -> Optional[str]:
        """As pooch takes it."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else None


class WrongFile(Exception):
    """A mirror offers something else."""


def obtain(archive: Archive, given: Path | None, unchecked: bool = False, cache: Path | None = None) -> Path:
    """The archive's file: ``given`` (``--archive``), or downloaded into ``cache``.

    Args:
        unchecked: take ``given`` whatever its checksum.
        cache: where downloads stay (None: the user's cache folder).

    Raises:
        UsageError: no mirror has it, or it is another file.
    """
    if given is None:
        return download(archive, cache)
    if not given.is_file():
        raise UsageError(f"--archive {given} is not a file: name {archive.name}, or leave it out to download it")
    found = file_hash(given)
    if archive.sha256 is None or unchecked:
        print(f"{given} has sha256 {found}", flush=True)
    elif found != archive.sha256:
        raise UsageError(
            f"--archive {given} has sha256 {found}, not {archive.sha256} as {archive.name} has: fetch it again, or "
            "--unchecked to take it as it is"
        )
    return given


def download(archive: Archive, cache: Path | None, shown: bool = True) -> Path:
    """Tries mirror after mirror; with a progress bar if ``shown``."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    quiet()
    folder, known = cache or default_cache(), archive.sum
    part = folder / f"{archive.name}.part"
    problems = []
    for url in archive.urls:
        downloader = Downloader(archive, part, shown)
        try:
            path = pooch.retrieve(url, known, fname=archive.name, path=folder, downloader=downloader)
        except (WrongFile, ValueError) as error:  # pooch says so of another checksum
            part.unlink(missing_ok=True)
            reason = str(error) if isinstance(error, WrongFile) else "another checksum"
            problems.append(f"{url}: {reason}")
        except OSError as error:  # those of requests are such errors too
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS):
                strerror = error.strerror
                raise UsageError(f"{folder} cannot be written ({strerror}): free room, or name a --cache") from error
            problems.append(f"{url}: {type(error).__name__}")
        else:
            if known is None:
                print(f"{archive.name} has sha256 {file_hash(Path(path))}", flush=True)
            return Path(path)
    said = "; ".join(problems)
    way_out = "run again to go on, or name a copy as --archive"
    raise UsageError(f"{archive.name} could not be downloaded ({said}): {way_out}")


def quiet() -> None:
    """Of each request urllib3 logs a line for debugging, which importing fairseq turns on."""
    logging.getLogger("urllib3").setLevel(logging.WARNING)


def default_cache() -> Path:
    """The user's cache folder."""
    import pooch

    return Path(pooch.os_cache("lamemo_fairseq"))


class Downloader:
    """What pooch calls to fetch a URL into a file; where a connection broke, the next one goes on."""

    def __init__(self, archive: Archive, part: Path, shown: bool) -> None:
        self.archive, self.part = archive, part
        self.no_bar = None if shown else True  # None: unless there is a terminal

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Fetches ``url``."""
        import requests

        for attempt in range(ATTEMPTS):
            before = self.have()
            try:
                self.go_on(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if attempt + 1 == ATTEMPTS or self.have() <= before:
                    raise
        os.replace(self.part, output_file)

    def have(self) -> int:
        """Bytes that are there already."""
        return self.part.stat().st_size if self.part.exists() else 0

    def go_on(self, url: str) -> None:
        """One request, for what is missing."""
        import requests

        have = self.have()
        headers = {"User-Agent": USER_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # all of it had come
            response.raise_for_status()
            have = have if response.status_code == requests.codes.partial_content else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length is not None else None
            self.check_size(total)
            with open(self.part, "ab" if have else "wb") as file, self.bar(have, total) as bar:
                for block in response.iter_content(BLOCK):
                    have += len(block)
                    self.check_size(have, grows=True)
                    file.write(block)
                    bar.update(len(block))

    def check_size(self, size: int | None, grows: bool = False) -> None:
        """Raises ``WrongFile`` where ``size`` bytes cannot be the archive."""
        expected = self.archive.size
        if size is None:
            return
        if expected is not None and (size > expected if grows else size != expected):
            raise WrongFile(f"{size:,} bytes, not {expected:,}")
        if expected is None and size > self.archive.largest:
            raise WrongFile(f"more than {self.archive.largest:,} bytes")

    def bar(self, have: int, total: int | None) -> contextlib.AbstractContextManager[tqdm]:
        """A progress bar, on a terminal."""
        form = {"desc": self.archive.name, "unit": "B", "unit_scale": True, "leave": False}
        return tqdm(initial=have, total=total, disable=self.no_bar, **form)
