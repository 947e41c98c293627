#!/usr/bin/env python3
"""Shakespeare's plays as characters: LaMemo and Transformer-XL of the same size, side by side.

Both see the same text in the same order, with the same seed and as many updates. Everything goes to --dest:

    corpus/             the texts and data-bin
    MODEL/              checkpoint_last.pt, train.jsonl (the curve), result.json
    model/              LaMemo as a directory to hand on, with its card
    table.txt           what is printed at the end
    curves.png
"""

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.prepare import shakespeare
from lamemo_fairseq.data.text_form import text_form
from lamemo_fairseq.evaluation import plotting
from lamemo_fairseq.interop.export import Facts, export
from lamemo_fairseq.plugin.presets import PRESETS, Training
from lamemo_fairseq.plugin.recipes import command_line
from lamemo_fairseq.study import curves

ROOT = Path(__file__).resolve().parent.parent
PRESET = PRESETS["lamemo_lm_small"]
# Name, title, what differs from the preset.
MODELS: Tuple[Tuple[str, str, List[str]], ...] = (
    ("lamemo", "LaMemo", []),
    ("transformer-xl", "Transformer-XL", ["--memory-type", "recurrence"]),
)
SCORED = ("valid", "test")
PROMPT = "the "


def program(name: str) -> str:
    """Path of a command, in the environment that runs this script."""
    return str(Path(sys.executable).with_name(name))


def run(command: List[str], log: Path, on_line: Any) -> None:
    """Runs a command, its output into ``log`` and line by line to ``on_line``."""
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            on_line(line)
    if process.wait() != 0:
        tail = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        sys.exit(f"quickstart: {' '.join(command)} failed ({''.join(tail)}); all of it is in {log}")


def train(name: str, title: str, flags: List[str], training: Training, folder: Path, data: Path) -> float:
    """Trains one model unless it is trained; returns the seconds that this took, restarts included."""
    folder.mkdir(parents=True, exist_ok=True)
    marker, log = folder / "trained.json", folder / "train.jsonl"
    asked = {"preset": {"arch": PRESET.arch, **dataclasses.asdict(training)}, "flags": flags, "data": str(data)}
    if marker.exists():
        done = json.loads(marker.read_text())
        if done["asked"] != asked:
            sys.exit(f"quickstart: {folder} holds a model trained otherwise: name another --dest")
        print(f"{title} is trained already ({folder})")
        return float(done["seconds"])
    print(f"training {title}: {training.max_update} updates", flush=True)
    command = [program("fairseq-train"), str(data), "--user-dir", str(ROOT / "lamemo_fairseq")]
    command += command_line(PRESET) + ["--max-update", str(training.max_update), *flags]
    # The whole valid split is scored once, at the end: validation in between would cost more than training.
    command += ["--save-dir", str(folder), "--disable-validation", "--save-interval-updates", "200"]
    command += ["--keep-interval-updates", "1", "--log-format", "json", "--log-interval"]
    command += [str(min(20, training.max_update))]

    def show(line: str) -> None:
        point = curves.training_point(line)
        if point is not None:
            shown = f"  update {int(point['update']):5d} of {training.max_update}"
            print(f"{shown}   train {point['bpc']:.3f} bpc   {point['wps']:,.0f} characters/s", flush=True)

    run(command, log, show)
    seconds = curves.read_training(log.read_text(encoding="utf-8"))[-1]["wall"]
    marker.write_text(json.dumps({"asked": asked, "seconds": seconds}, indent=1))
    return seconds


def score(title: str, split: str, training: Training, folder: Path, data: Path) -> float:
    """Bits per character of a split, by fairseq-eval-lm, unless it is known."""
    result = folder / f"{split}.json"
    if not result.exists():
        print(f"scoring {title} on {split}", flush=True)
        command = [program("fairseq-eval-lm"), str(data), "--user-dir", str(ROOT / "lamemo_fairseq")]
        command += ["--task", "memory_language_modeling", "--path", str(folder / "checkpoint_last.pt")]
        command += ["--gen-subset", split, "--tokens-per-sample", str(training.tokens_per_sample)]
        command += ["--batch-size", str(training.batch_size), "--no-progress-bar"]
        lines: List[str] = []
        run(command, folder / f"{split}.log", lines.append)
        (found,) = (line for line in lines if "Loss (base 2)" in line)
        bpc = float(found.split("Loss (base 2): ")[1].split(",")[0])
        result.write_text(json.dumps({"bpc": bpc}))
    return float(json.loads(result.read_text())["bpc"])


def parameters(folder: Path) -> int:
    """Weights of a trained model."""
    state = torch.load(folder / "checkpoint_last.pt", map_location="cpu", weights_only=True)
    return sum(tensor.numel() for tensor in state["model"].values())


def table(rows: List[Dict[str, Any]], training: Training, source: str) -> str:
    """What is printed at the end."""
    head = f"{'model':16}{'parameters':>12}{'updates':>9}{'seconds':>9}{'valid bpc':>11}{'test bpc':>10}"
    lines = [f"{source}, as characters; {training.max_update} updates, one seed", head]
    for row in rows:
        lines.append(
            f"{row['title']:16}{row['parameters']:12,d}{training.max_update:9d}{row['seconds']:9.0f}"
            f"{row['valid']:11.3f}{row['test']:10.3f}"
        )
    ours, theirs = rows[0]["test"], rows[1]["test"]
    better, worse = ("LaMemo", "Transformer-XL") if ours <= theirs else ("Transformer-XL", "LaMemo")
    lines.append(
        f"On test {better} needs {abs(ours - theirs):.3f} bits per character less than {worse}; LaMemo's training "
        f"took {rows[0]['seconds'] / rows[1]['seconds']:.2f} times as long. One seed: see examples/study for more."
    )
    return "\n".join(lines)


def continuation(folder: Path, data: Path) -> str:
    """How a trained model goes on from PROMPT: the same text every time."""
    lm = LaMemoLanguageModel.from_pretrained(
        str(folder), "checkpoint_last.pt", data_name_or_path=str(data), bpe="text_characters"
    )
    return str(lm.sample(PROMPT, sampling=True, sampling_topp=0.9, temperature=0.8, max_len_b=300, seed=1))


def hand_on(checkpoint: Path, data: Path, directory: Path, row: Dict[str, Any]) -> None:
    """Leaves the model of a table's row as a directory that needs nothing else, unless it is there."""
    if not directory.exists():
        scores = {f"{split} bpc": f"{row[split]:.3f}" for split in SCORED}
        export(str(checkpoint), str(directory), str(data), Facts(text_form(str(data)), scores))


def draw(rows: List[Dict[str, Any]], path: Path) -> None:
    """Training curves against updates and against seconds."""
    figure, panels = plotting.panels(2, width=10, height=4, share_y=True)
    for axes, key, across in zip(panels, ("update", "wall"), ("updates", "seconds")):
        plotting.lines(axes, {row["title"]: [(point[key], point["bpc"]) for point in row["curve"]] for row in rows})
        plotting.label(axes, across, "bits per character, training" if axes is panels[0] else "")
    plotting.legend(panels[0])
    plotting.write_png(figure, path)


def main() -> None:
    """Command line."""
    training = PRESET.training
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dest", type=Path, default=ROOT / "runs" / "quickstart", help="folder for everything")
    parser.add_argument("--max-update", type=int, default=training.max_update, help="updates of each model")
    parser.add_argument("--offline", action="store_true", help="take Python's documentation topics as text")
    arguments = parser.parse_args()
    training = dataclasses.replace(training, max_update=arguments.max_update)
    dest = arguments.dest.resolve()
    try:
        manifest = shakespeare.prepare(dest / "corpus", arguments.offline)
    except UsageError as error:
        sys.exit(f"quickstart: {error}")
    data = dest / "corpus" / "data-bin"
    rows = []
    for name, title, flags in MODELS:
        folder = dest / name
        seconds = train(name, title, flags, training, folder, data)
        scores = {split: score(title, split, training, folder, data) for split in SCORED}
        row = {"title": title, "seconds": seconds, "parameters": parameters(folder), **scores}
        log = (folder / "train.jsonl").read_text(encoding="utf-8")
        rows.append({**row, "curve": curves.read_training(log)})
    text = table(rows, training, manifest["source"])
    (dest / "table.txt").write_text(text + "\n", encoding="utf-8")
    draw(rows, dest / "curves.png")
    hand_on(dest / "lamemo" / "checkpoint_last.pt", data, dest / "model", rows[0])
    print(f"\n{text}\ncurves: {dest / 'curves.png'}")
    logging.disable(logging.INFO)  # what fairseq says of itself while it loads a model
    for name, title, _ in MODELS:
        print(f"\n{title} goes on from {PROMPT!r}:\n{continuation(dest / name, data)}")
    print(f"\nLaMemo to keep, with its model card: {dest / 'model'}\nmore of it:")
    print(
        f"  {program('lamemo')} generate {dest / 'model'} --prompt {PROMPT!r} --sampling --top-p 0.9 --temperature 0.8"
    )


if __name__ == "__main__":
    main()
