"""fairseq-generate and fairseq-interactive as processes: what is never written, and flags that leave nothing."""

from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
import torch
from conftest import run
from test_requests import SEARCHES

PROMPT, NEW = 5, 20


@pytest.fixture(scope="module")
def model_of_padding(corpus: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that likes best what stands in no text: ``<unk>``, ``<s>``, ``<pad>`` and padding of the dictionary."""
    state = torch.load(checkpoint, weights_only=True)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *(line.split()[0] for line in open(corpus / "dict.txt"))]
    liked = [n for n, symbol in enumerate(symbols) if symbol.startswith("madeupword") or n in (0, 1, 3)]
    assert len(liked) > 3, "the dictionary has no padding"
    state["model"]["decoder.output_bias"][liked] = 20.0
    path = tmp_path_factory.mktemp("padding") / "model.pt"
    torch.save(state, path)
    return path


def flags_of(search: Dict[str, Any]) -> List[Any]:
    """A search as a command line has it, all that it finds shown."""
    beams = search.get("beam", 1)
    words: List[Any] = ["--beam", beams, "--nbest", beams]
    for name, value in search.items():
        if name != "beam":
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return words


def common(model: Path) -> List[Any]:
    return ["--task", "memory_language_modeling", "--path", model, "--tokens-per-sample", 16, "--cpu", "--seed", 1]


def written(output: str, hypotheses: int, prompt: int) -> Set[str]:
    """Symbols behind the prompts of all hypotheses."""
    found = [line.split("\t")[2].split() for line in output.splitlines() if line.startswith("H-")]
    assert len(found) == hypotheses and all(len(symbols) == prompt + NEW for symbols in found)
    return {symbol for symbols in found for symbol in symbols[prompt:]}


def never(symbol: str) -> bool:
    return symbol.startswith("madeupword") or symbol in ("<s>", "<pad>", "<unk>")


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("command", ["generate", "interactive"])
def test_symbols_that_stand_in_no_text(corpus: Path, model_of_padding: Path, command: str, name: str) -> None:
    flags = [corpus, *common(model_of_padding), *flags_of(SEARCHES[name]), "--max-len-b", NEW]
    beams = SEARCHES[name].get("beam", 1)
    if command == "generate":
        flags += ["--gen-subset", "test", "--prefix-size", PROMPT, "--prompt-blocks", "0:2"]
        count, prompt, text = 2 * beams, PROMPT, None
    else:
        flags += ["--bpe", "text_characters"]
        count, prompt, text = beams, 3, "the\n"
    without = written(run(command, *flags, input=text).stdout, count, prompt)
    assert not [symbol for symbol in without if never(symbol)]
    if name in ("greedy", "topk"):  # and of the symbols that stand in no text, <unk> alone where it is asked for
        asked = written(run(command, *flags, "--write-unk", input=text).stdout, count, prompt)
        assert [symbol for symbol in asked if never(symbol)] == ["<unk>"]


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--prefix-size", 0], "fairseq-generate has no prompts: give --prefix-size P"),
        (["--prefix-size", -3], "fairseq-generate has no prompts: give --prefix-size P"),
        (["--prefix-size", 100000], "--prefix-size 100000 is more than the split has, "),
        (["--prefix-size", 5, "--max-tokens", 15], "--max-tokens 15 is less than a block of 16 tokens, which holds"),
        (["--prefix-size", 17, "--max-tokens", 31], "--max-tokens 31 is less than a block of 32 tokens, which holds"),
        (["--prefix-size", 5, "--max-tokens", 0], "--max-tokens 0 "),
        (["--prefix-size", 5, "--max-tokens", -1], "--max-tokens -1 "),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, list) else "",
)
def test_generate_with_nothing_left(corpus: Path, checkpoint: Path, flags: List[Any], line: str) -> None:
    done = run("generate", corpus, *common(checkpoint), "--max-len-b", NEW, "--beam", 1, *flags, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith(f"error: {line}"), done.stdout[-600:]


def test_the_least_that_leaves_something(corpus: Path, checkpoint: Path) -> None:
    """The whole split as one prompt, and as many tokens a batch as one block has."""
    whole = sum(len(line.split()) + 1 for line in open(corpus.parent / "test.txt"))
    flags = [corpus, *common(checkpoint), "--max-len-b", NEW, "--beam", 1, "--prompt-blocks", "0"]
    for prefix, block in ((whole, -(-whole // 16) * 16), (16, 16)):
        done = run("generate", *flags, "--prefix-size", prefix, "--max-tokens", block)
        written(done.stdout, 1, prefix)
    more = run("generate", *flags, "--prefix-size", whole + 1, check=False)
    assert f"error: --prefix-size {whole + 1} is more than the split has, {whole} tokens" in more.stdout


def test_interactive_with_nothing_left(corpus: Path, checkpoint: Path) -> None:
    flags = [corpus, *common(checkpoint), "--bpe", "text_characters", "--max-len-b", NEW, "--beam", 1]
    for size, line in (
        (2, "--max-tokens 2 is less than a prompt's 3 tokens: raise it"),
        (0, "--max-tokens 0 "),
    ):
        done = run("interactive", *flags, "--max-tokens", size, check=False, input="the\n")
        assert done.returncode != 0 and "Traceback" not in done.stdout
        assert done.stdout.strip().splitlines()[-1].startswith(f"error: {line}"), done.stdout[-600:]
    written(run("interactive", *flags, "--max-tokens", 3, input="the\n").stdout, 1, 3)
