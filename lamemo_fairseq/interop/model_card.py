"""The model card of an exported directory: ``README.md``, with the front matter that the Hugging Face hub reads."""

import json
import os
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from ..core.config import ModelConfig
from ..core.memory import KINDS
from ..data.counts import CORPUS_FILE
from ..data.text_form import FILES

#: what the card calls a memory kind, and where it is from
PAPERS = {
    "lookahead": "LaMemo (arXiv 2204.07341)",
    "recurrence": "Transformer-XL (arXiv 1901.02860)",
    "compressive": "Compressive Transformer (arXiv 1911.05507)",
    "continuous": "infinity-former (arXiv 2109.00301)",
    "none": "a transformer without memory",
}
Rows = List[Tuple[str, str]]


def card(
    name: str,
    model: ModelConfig,
    text: Dict[str, str],
    settings: Rows,
    data: str,
    scores: Dict[str, str],
    license: str,
) -> str:
    """The card's text.

    Args:
        name: of the directory.
        model: its configuration.
        text: fairseq's options of tokenizer and BPE, files by their names in the directory.
        settings: of the training, from :func:`settings_of`.
        data: the folder that ``lamemo prepare`` or ``fairseq-preprocess`` made.
        scores: by name.
        license: of the weights.
    """
    kind = PAPERS.get(model.memory, f"memory kind {model.memory}")
    known = "\n".join(f"| {what} | {value} |" for what, value in scores.items())
    scored = f"| score | value |\n|---|---|\n{known}" if scores else "None was given to `lamemo export` (`--score`)."
    return CARD.format(
        name=name,
        license=license,
        kind=kind,
        version=program(),
        form=form_in_words(text),
        interactive=" ".join(["--tokens-per-sample", str(model.segment_length), *flags(text, name)]),
        data="\n".join(f"- {line}" for line in data_in_words(data)),
        settings="\n".join(f"| {what} | {value} |" for what, value in [*sizes(model), *settings]),
        scores=scored,
    )


CARD = """---
license: {license}
library_name: lamemo_fairseq
pipeline_tag: text-generation
tags:
- language-modeling
- lamemo
---

# {name}

A language model with memory: {kind}. {form} Exported by {version}.

## Use

```python
from lamemo_fairseq import LaMemoLanguageModel

lm = LaMemoLanguageModel.from_pretrained("{name}")  # the directory's path
print(lm.sample("the ", sampling=True, sampling_topp=0.9, max_len_b=200))
print(lm.score("the ")["positional_scores"])  # nats
```

```
lamemo generate {name} --prompt 'the ' --sampling --top-p 0.9
fairseq-interactive {name} --path {name}/model.safetensors --user-dir $(lamemo user-dir) \\
    --task memory_language_modeling {interactive}
```

`--path {name}/model.safetensors` goes with every command of fairseq; without fairseq,
`lamemo_fairseq.core.load_pretrained("{name}")` reads it with torch and safetensors alone.

## Data

{data}

## Settings

| setting | value |
|---|---|
{settings}

## Scores

{scores}

## Licence

{license}
"""


def form_in_words(text: Dict[str, str]) -> str:
    """How text becomes tokens, as a sentence."""
    pieces = {
        "text_characters": "Its tokens are characters",
        "text_bytes": "Its tokens are bytes of UTF-8",
        "fastbpe": "Its tokens are pieces of words (fastBPE, `codes`)",
        "sentencepiece": "Its tokens are pieces of words (sentencepiece, `spm.model`)",
    }
    bpe = text.get("bpe")
    said = "Its tokens are words between white space" if bpe is None else pieces.get(bpe, f"Its tokens are of {bpe}")
    moses = f", tokenized by Moses ({text['source_lang']})" if text.get("tokenizer") == "moses" else ""
    return f"{said}{moses}."


def flags(text: Dict[str, str], directory: str) -> List[str]:
    """The options as flags of fairseq's commands; files are those of ``directory``."""
    values = {option: f"{directory}/{value}" if option in FILES else value for option, value in text.items()}
    return [word for option, value in values.items() for word in (f"--{option.replace('_', '-')}", value)]


def data_in_words(data: str) -> List[str]:
    """What ``corpus.json`` says of the data: source and the size of each split's original text."""
    try:
        with open(os.path.join(data, CORPUS_FILE), encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
        lines = [f"source: {found['source']}"]
        for split, facts in found["splits"].items():
            lines.append(f"{split}: {facts['characters']:,} characters, {facts['tokens']:,} tokens")
        return lines
    except (OSError, ValueError, KeyError, TypeError):
        return ["not recorded: the data were not made by `lamemo prepare`"]


def sizes(model: ModelConfig) -> Rows:
    """Sizes and parts of the model."""
    options = KINDS[model.memory].options_class() if model.options is None else model.options
    return [
        ("memory", f"{model.memory}, {model.mem_len} tokens"),
        *((name.replace("_", " "), str(value)) for name, value in vars(options).items()),
        ("position encoding", model.encoding_name),
        ("tokens in a segment", str(model.segment_length)),
        ("layers, width, feed-forward, heads", f"{model.layers}, {model.dim}, {model.ffn_dim}, {model.heads}"),
        ("vocabulary", f"{model.vocab_size:,}"),
    ]


def settings_of(state: Dict[str, Any], cfg: Dict[str, Any], model: ModelConfig) -> Rows:
    """How a checkpoint was trained, as far as it says.

    Args:
        state: of the checkpoint.
        cfg: its configuration, as plain values.
        model: what it is made of.
    """
    optimization, batch = group(cfg, "optimization"), group(cfg, "dataset").get("batch_size")
    ranks = group(cfg, "distributed_training").get("distributed_world_size")
    rows: Rows = [("dropout, on attention", f"{model.dropout}, {model.attention_dropout}")]
    updates = state["optimizer_history"][-1]["num_updates"]
    if updates == 0:  # an imported checkpoint: its configuration is not that of its training
        return [*rows, ("training", "by another program")]
    rows += [("updates", f"{updates:,}"), ("streams per rank, ranks", f"{batch}, {ranks}")]
    for name in ("optimizer", "lr_scheduler", "criterion"):
        rows.append((name.replace("_", " "), str(group(cfg, name).get("_name"))))
    for name in ("lr", "clip_norm", "update_freq"):
        value = optimization.get(name)
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((name.replace("_", " "), shown))
    rows += [(name, str(group(cfg, "common").get(name))) for name in ("seed", "fp16", "bf16")]
    loss = state.get("extra_state", {}).get("val_loss")
    if isinstance(loss, float):
        rows.append((f"valid {group(cfg, 'checkpoint').get('best_checkpoint_metric')}, in training", f"{loss:.4f}"))
    return rows


def group(cfg: Dict[str, Any], name: str) -> Dict[str, Any]:
    """A group of fairseq's configuration, empty where a checkpoint has none."""
    found: Optional[Dict[str, Any]] = cfg.get(name)
    return {} if found is None else found


def program() -> str:
    """Name, version and, in a checkout, git revision of this program."""
    from importlib.metadata import PackageNotFoundError, version

    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        named = f"lamemo_fairseq {version('lamemo_fairseq')}"
    except PackageNotFoundError:
        named = "lamemo_fairseq"
    try:
        tracked = ["git", "-C", folder, "ls-files", "--error-unmatch", os.path.basename(__file__)]
        subprocess.run(tracked, check=True, capture_output=True, timeout=10)  # not a checkout that it is installed in
        words = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        revision = subprocess.run(words, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return named
    return f"{named}, revision {revision}"
