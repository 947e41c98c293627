"""From an archive to a table: prepares a corpus, trains presets on it, scores them, and puts published numbers beside.

What ``bash examples/CORPUS/run.sh`` runs, by ``scripts/recipe.sh``. Each command is printed before it runs, so that it
can be run alone; what is there already is not done again. DEST holds

    data-bin/, *.txt        of lamemo prepare
    VARIANT_SIZE/           checkpoints, hydra's log, asked.json (what was asked for), trained (it is finished)
    evaluation/             results of lamemo evaluate
    table.md                examples/CORPUS/published.csv, with what was found here
"""

import argparse
import csv
import json
import math
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Sequence

import torch

from ..data.counts import read_counts
from ..plugin.presets import SIZES, VARIANTS, Preset
from .recipe_smoke import SMOKE_MODEL, SMOKE_PREPARE, SMOKE_TOKENS, tiny_archive

ROOT = Path(__file__).resolve().parents[2]  # a checkout: its examples hold the published numbers
CORPORA = ("wikitext-103", "enwik8", "text8", "pg19")
#: what a corpus is measured in
MEASURES = {"wikitext-103": "perplexity", "enwik8": "bits per byte", "text8": "bits per character"}
PER_WORD = "perplexity per word"
OF_HYDRA = ",=()[]{}'\"$#"  # what a value of its command line cannot have as it stands
Row = Dict[str, str]


@dataclass(frozen=True)
class Longer:
    """Evaluation with a longer memory: T tokens of a segment, M of memory, distances encoded up to C."""

    tokens: int
    mem_len: int
    clamp_len: int


#: how Transformer-XL's own scripts evaluate its base models; pg19: ours
LONGER = {
    "wikitext-103": Longer(64, 640, 400),
    "enwik8": Longer(80, 2100, 820),
    "text8": Longer(80, 2100, 820),
    "pg19": Longer(128, 2048, 1024),
}


def die(message: str) -> NoReturn:
    """Ends with one line."""
    print(f"run.sh: {message}", file=sys.stderr)
    sys.exit(1)


def run(*words: Any) -> None:
    """Runs a command of this environment. Where it fails it has said why, in one line, and this ends as well."""
    words = tuple(map(str, words))
    print(f"+ {shlex.join(words)}", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    try:
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode
    except KeyboardInterrupt:
        die("stopped; the same command goes on from here")
    except OSError as error:
        die(f"{command[0]} cannot be run ({error.strerror}): bash scripts/bootstrap.sh installs it")
    if code != 0:
        sys.exit(code)


class Recipe:
    """One corpus, one size, several variants.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.corpus, self.smoke, self.overrides = options.corpus, options.smoke, options.overrides
        self.dest = (options.dest or Path("runs") / f"{options.corpus}{'-smoke' if options.smoke else ''}").absolute()
        for path in (self.dest, ROOT):
            if set(str(path)) & set(OF_HYDRA):
                die(f"{path} has one of {OF_HYDRA}, which hydra takes for its own: choose another folder")
        self.presets = [Preset(variant, options.size) for variant in options.variants]
        self.archive, self.unchecked = options.archive, options.unchecked
        training = self.presets[0].training
        self.tokens = SMOKE_TOKENS if self.smoke else training.tokens_per_sample

    @property
    def title(self) -> str:
        """Of our column: what keeps it from standing beside published numbers."""
        size = self.presets[0].size
        other = ["smoke"] if self.smoke else [] if size.endswith("_base") or self.corpus == "pg19" else [size]
        return f"ours ({' '.join([*other, *self.overrides])})" if [*other, *self.overrides] else "ours"

    @property
    def data(self) -> Path:
        return self.dest / "data-bin"

    def folder(self, preset: Preset) -> Path:
        """Of a model."""
        return self.dest / f"{preset.variant}_{preset.size}"

    def checkpoint(self, preset: Preset) -> Path:
        """What is scored: the best by validation."""
        return self.folder(preset) / "checkpoint_best.pt"

    def prepare(self) -> None:
        """``lamemo prepare``."""
        flags: List[Any] = []
        if self.smoke:
            self.archive, self.unchecked = tiny_archive(self.corpus, self.dest), True
            flags = [*SMOKE_PREPARE.get(self.corpus, ())]
        flags += [] if self.archive is None else ["--archive", self.archive.absolute()]
        flags += ["--unchecked"] if self.unchecked else []
        if self.archive is None and self.data.is_dir():
            print(f"{self.data} is there already")  # without a download, and without reading it all
            return
        run("lamemo", "prepare", self.corpus, "--dest", self.dest, *flags)

    def train(self, preset: Preset) -> None:
        """``fairseq-hydra-train``, which goes on where it was stopped."""
        folder = self.folder(preset)
        overrides = [*(SMOKE_MODEL if self.smoke else ()), *self.overrides]
        asked = json.dumps({"size": preset.size, "variant": preset.variant, "overrides": overrides})
        record, finished = folder / "asked.json", folder / "trained"
        if record.exists() and record.read_text() != asked:
            die(f"{folder} was begun with {record.read_text()}, not {asked}: name another --dest")
        if finished.exists():
            print(f"{preset.variant} is trained already ({folder})")
            return
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(asked)
        config = ROOT / "lamemo_fairseq" / "config"
        run(
            *("fairseq-hydra-train", "--config-dir", config, "--config-name", f"lamemo_{preset.size}"),
            *(f"+variant={preset.variant}", f"task.data={self.data}", f"common.user_dir={ROOT / 'lamemo_fairseq'}"),
            *(f"checkpoint.save_dir={folder}", f"hydra.run.dir={folder}", *overrides),
        )
        if not self.checkpoint(preset).exists():
            die(f"{folder} has no checkpoint_best.pt: leave checkpoint.* and disable_validation out of the overrides")
        finished.touch()

    def evaluate(self) -> None:
        """``lamemo evaluate``: as trained on both splits, and with a longer memory on test."""
        checkpoints = [self.checkpoint(preset) for preset in self.presets]
        for split in ("valid", "test"):
            self.score(f"{split}-trained", checkpoints, split, ["--tokens-per-sample", self.tokens])
        for preset in self.presets:
            flags = self.longer(preset)
            if flags:
                self.score("test-longer", [self.checkpoint(preset)], "test", flags)

    def score(self, name: str, checkpoints: Sequence[Path], split: str, flags: Sequence[Any]) -> None:
        """Scores checkpoints on a split; results that are there are kept."""
        where = ["--results-path", self.dest / "evaluation" / name, "--gen-subset", split, "--batch-size", 16]
        cpu = ["--cpu"] if self.smoke else []
        run("lamemo", "evaluate", self.data, "--path", *checkpoints, *where, *flags, *cpu)

    def longer(self, preset: Preset) -> List[Any]:
        """Flags of the evaluation with a longer memory; none for a model without one.

        Transformer-XL as its own scripts do it. The others read segments as in training and meet no distance that
        training did not have: look-ahead does not stand others (see examples/evaluation).
        """
        if preset.variant == "no_memory":
            return []
        longer, trained = LONGER[self.corpus], preset.model["mem_len"]
        if self.smoke:
            longer, trained = Longer(8, 3 * SMOKE_TOKENS, 24), SMOKE_TOKENS
        tokens, clamp, same = self.tokens, self.tokens + trained, False
        if preset.variant == "compressive":
            clamp += trained  # slots that were compressed lie behind the others
        if preset.variant == "transformer_xl":
            tokens, clamp, same = longer.tokens, longer.clamp_len, True
        overrides = f'{{"clamp_len": {clamp}' + (', "same_length": True}' if same else "}")
        flags = ["--tokens-per-sample", tokens, "--mem-len", longer.mem_len]
        return [*flags, "--model-overrides", overrides]

    def found(self) -> Dict[str, Dict[str, float]]:
        """What was found here: by variant, then by ``SPLIT-trained`` or ``SPLIT-longer``."""
        ours: Dict[str, Dict[str, float]] = {preset.variant: {} for preset in self.presets}
        for name in ("valid-trained", "test-trained", "test-longer"):
            path = self.dest / "evaluation" / name / "results.json"
            results = json.loads(path.read_text()) if path.exists() else []
            for preset in self.presets:
                for result in results:
                    if result["checkpoint"] == str(self.checkpoint(preset)):
                        ours[preset.variant][name] = self.measure(result, name.split("-")[0])
        return ours

    def measure(self, result: Dict[str, Any], split: str) -> float:
        """A result in what the corpus is measured in; for pg19 per word of the original text."""
        nats = result["loss_nats"]
        if self.corpus == "pg19":
            counts = read_counts(str(self.data), split)
            assert counts is not None
            return math.exp(nats * result["scored"] / counts.words)
        return math.exp(nats) if self.corpus == "wikitext-103" else nats / math.log(2)


def published(corpus: str) -> List[Row]:
    """``examples/CORPUS/published.csv``."""
    with open(ROOT / "examples" / corpus / "published.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(corpus: str, ours: Dict[str, Dict[str, float]], head: str = "ours") -> str:
    """Published numbers and, beside them, what was found here, in Markdown. An empty cell: not run."""
    measure = MEASURES.get(corpus, PER_WORD)
    lines = [f"| model | evaluated | split | {measure}, published | source | {head} |", "|---|---|---|---|---|---|"]
    for row in published(corpus):
        value = ours.get(row["variant"], {}).get(f"{row['split']}-{row['evaluation']}")
        own = "" if value is None else f"{value:.2f}" if "perplexity" in measure else f"{value:.3f}"
        cells = (row["model"], row["evaluated"], row["split"], row["published"], row["source"], own)
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines) + "\n"


class Parser(argparse.ArgumentParser):
    """Whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        die(f"{message}; --help says more")


def parse(words: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The options of a command line, checked."""
    parser = Parser(prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("corpus", choices=CORPORA, help=argparse.SUPPRESS)
    add("overrides", nargs="*", metavar="OVERRIDE", help="of hydra, for each training: common.bf16=true")
    variants = f"joined by commas, of {', '.join(VARIANTS)} (default: lamemo,transformer_xl)"
    add("--variants", default="lamemo,transformer_xl", metavar="V1,V2", help=variants)
    add("--size", help="base or small (default: the larger one that there is)")
    add("--archive", type=Path, metavar="FILE", help="what was fetched already, instead of a download")
    add("--unchecked", action="store_true", help="take --archive whatever its checksum and size")
    add("--dest", type=Path, metavar="DIR", help="folder for everything (default: runs/CORPUS)")
    add("--smoke", action="store_true", help="all of it in small: a tiny archive, tiny models, 50 updates, CPU")
    options = parser.parse_intermixed_args(words)
    sizes = {size.rpartition("_")[2]: size for size, what in SIZES.items() if what.example == options.corpus}
    chosen = options.size or next(iter(sizes))
    if chosen not in sizes:
        die(f"--size {chosen} is not known for {options.corpus}: choose of {', '.join(sizes)}")
    options.size, options.variants = sizes[chosen], options.variants.split(",")
    for variant in options.variants:
        if variant not in VARIANTS:
            die(f"--variants {variant} is not known: choose of {', '.join(VARIANTS)}")
    for override in options.overrides:
        if "=" not in override:
            die(f"{override} is no override of hydra: write e.g. optimization.max_update=1000")
    if options.smoke and options.archive is not None:
        die(f"--archive {options.archive} goes without --smoke, which makes a tiny one")
    if options.unchecked and options.archive is None:
        die("--unchecked is for an --archive of yours: name it")
    return options


def main() -> None:
    """Command line."""
    options = parse()
    recipe = Recipe(options)
    if not options.smoke and not torch.cuda.is_available():
        print(
            "run.sh: torch sees no GPU, and without one this takes weeks; --smoke does all of it in small", flush=True
        )
    recipe.prepare()
    for preset in recipe.presets:
        recipe.train(preset)
    recipe.evaluate()
    text = table(recipe.corpus, recipe.found(), recipe.title)
    (recipe.dest / "table.md").write_text(text, encoding="utf-8")
    if options.smoke:
        print("\nA smoke test: these numbers say that all of it runs, and nothing else.")
    print(f"\n{text}\nrun.sh: wrote {recipe.dest / 'table.md'}")


if __name__ == "__main__":
    main()
