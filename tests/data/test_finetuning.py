"""The commands of examples/finetuning, as they stand there, with fewer updates: each once, in one folder."""

import re
import shlex
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
import torch
from commands import PLUGIN, ROOT, Command, english

from lamemo_fairseq.cli.main import main

PAGE = (ROOT / "examples" / "finetuning" / "README.md").read_text(encoding="utf-8")


def commands() -> List[List[str]]:
    """Words of the page's commands; paths of files are the test's."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[Path, List[str]]]:
    """The folder in which all commands have run, and what each printed."""
    pytest.importorskip("fastBPE")
    folder = tmp_path_factory.mktemp("finetuning")
    for number, name in enumerate(("TRAIN", "VALID", "NEW_TRAIN", "NEW_VALID", "NEW_TEST")):
        words = english(3000 if "TRAIN" in name else 300, skip=4000 * number)
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    shorter = {"500": "6", "200": "3", "600": "8"}
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lamemo"])
        for number, words in enumerate(commands()):
            if words[0] == "lamemo":
                assert main(words[1:]) == 0
                outputs.append("")
                continue
            at = words.index("--max-update") + 1
            words[at] = shorter[words[at]]
            words[words.index("lamemo_fairseq")] = PLUGIN
            words = [str(folder / word) if word.startswith("runs/") else word for word in words]
            small = [
                "--cpu",
                "--decoder-layers",
                "1",
                "--mem-len",
                "32",
                "--tokens-per-sample",
                "16",
                "--num-workers",
                "0",
            ]
            output = folder / f"{number}.log"
            outputs.append(Command("train", [*words[1:], *small, "--log-interval", "1"], output).succeed())
    yield folder, outputs


def weights(path: Path) -> "dict[str, torch.Tensor]":
    return torch.load(path, weights_only=True)["model"]


def test_the_new_text_has_the_old_symbols(done: Tuple[Path, List[str]]) -> None:
    folder, _ = done
    for name in ("dict.txt", "codes"):
        old, new = (folder / "runs" / run / "data-bin" / name for run in ("old", "new"))
        assert old.read_bytes() == new.read_bytes()


def test_weights_alone(done: Tuple[Path, List[str]]) -> None:
    folder, outputs = done
    assert "loading pretrained model" in outputs[3] and "Memory is refilled" not in outputs[3]
    state = torch.load(folder / "runs/new/lamemo/checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 3
    old, new = weights(folder / "runs/old/lamemo/checkpoint_last.pt"), state["model"]
    assert old.keys() == new.keys() and any(not torch.equal(old[name], new[name]) for name in old)
    # Three updates of Adam move a weight by no more than about three times the learning rate.
    assert max(float((old[name] - new[name]).abs().max()) for name in old) < 4 * 0.0003


def test_behind_the_old_memory(done: Tuple[Path, List[str]]) -> None:
    folder, outputs = done
    old = folder / "runs/old/lamemo/checkpoint_last.pt"
    assert f"the new text begins behind the memory of {old}, of 4 streams" in outputs[4]
    assert "Memory is refilled" not in outputs[4] and "begins behind" not in outputs[3]


def test_goes_on_where_it_was(done: Tuple[Path, List[str]]) -> None:
    folder, outputs = done
    assert "Memory is refilled by replaying" in outputs[5]
    assert "tokens of text (was " in outputs[5]
    state = torch.load(folder / "runs/new/continued/checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 8
