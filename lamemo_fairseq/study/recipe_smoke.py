"""What ``run.sh --smoke`` takes in place of a corpus: an archive of the same layout, of text that ships with Python."""

import os
import re
import shutil
import zipfile
from pathlib import Path
from pydoc_data import topics
from typing import Dict, List

from ..data.prepare.pg19 import FOLDERS

SMOKE_TOKENS = 16  # N and M
#: overrides of a preset: two layers, some updates, at a rate that shows in the table
SMOKE_MODEL = [
    "model.decoder_layers=2",
    "model.decoder_embed_dim=32",
    "model.decoder_ffn_embed_dim=64",
    "model.decoder_attention_heads=2",
    f"model.mem_len={SMOKE_TOKENS}",
    f"task.tokens_per_sample={SMOKE_TOKENS}",
    "dataset.batch_size=4",
    "dataset.num_workers=0",
    "optimization.max_update=50",
    "optimization.lr=[0.01]",
    "common.cpu=true",
]
#: further flags of lamemo prepare
SMOKE_PREPARE: Dict[str, List[str]] = {"pg19": ["--sentencepiece", "300"]}


def text_of(split: str) -> str:
    """Documentation topics, another part for each split."""
    whole = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    start, length = {"train": (0, 40_000), "valid": (40_000, 3_000), "test": (43_000, 3_000)}[split]
    return whole[start : start + length]


def members(corpus: str) -> Dict[str, str]:
    """The files of a corpus's archive."""
    if corpus == "wikitext-103":
        return {f"{corpus}/wiki.{split}.tokens": text_of(split) for split in FOLDERS}
    if corpus == "pg19":
        return {f"{folder}/1.txt": text_of(split) for split, folder in FOLDERS.items()}
    whole = "".join(map(text_of, FOLDERS))
    return {corpus: whole if corpus == "enwik8" else re.sub("[^a-z]+", " ", whole.lower())}


def tiny_archive(corpus: str, dest: Path) -> Path:
    """The archive, or for pg19 the folder, below ``dest``; one that is there is left as it is."""
    path = dest / "archive" / ("books" if corpus == "pg19" else f"{corpus}.zip")
    if path.exists():
        return path
    unfinished = path.with_name(path.name + ".unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    path.parent.mkdir(parents=True, exist_ok=True)
    if corpus == "pg19":
        for name, text in members(corpus).items():
            (unfinished / name).parent.mkdir(parents=True)
            (unfinished / name).write_text(text, encoding="utf-8")
    else:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members(corpus).items():
                archive.writestr(name, text.encode("utf-8"))
    os.replace(unfinished, path)
    return path
