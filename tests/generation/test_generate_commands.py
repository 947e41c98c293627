"""fairseq-generate and fairseq-interactive as users run them: the commands of examples/generation/README.md."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest
import torch
from commands import PLUGIN, ROOT
from conftest import run
from fairseq_cli import interactive

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.data.characters import TextCharacters
from lamemo_fairseq.data.prepare.corpus import encode_characters
from lamemo_fairseq.plugin.error_reporting import explain

README = ROOT / "examples" / "generation" / "README.md"


@pytest.fixture(scope="module")
def printed(corpus: Path, checkpoint: Path) -> str:
    """What the README's commands print, all blocks in one shell."""
    script = "\n".join(re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.S))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DATA": str(corpus),
        "MODEL": str(checkpoint),
        "SEGMENT": "16",
    }
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def lines(output: str, kind: str) -> Dict[int, List[str]]:
    """The cells behind ``KIND-NUMBER``, by number; plain text goes on to the next such line."""
    ends = r"(?=^[STWHDP]-\d+\t|^Generate |^\d{4}-|\Z)"
    found = re.findall(rf"^{kind}-(\d+)\t(.*?)\n{ends}", output, re.M | re.S)
    return {int(n): rest.split("\t") for n, rest in found}


def as_text(symbols: List[str]) -> str:
    """Characters as plain text, in which line ends and unknown symbols are shown."""
    parts = re.split("(</s>|<unk>)", " ".join(symbols))
    plain = {"</s>": "\n", "<unk>": "<unk>"}
    return "".join(plain[part] if part in plain else TextCharacters.decode(part) for part in parts)


def halves(output: str) -> "tuple[str, str]":
    """What fairseq-generate and fairseq-interactive printed."""
    first, second = output.split("Generate test with beam=1")
    return first, second


def test_generate_continues_blocks(printed: str, corpus: Path, checkpoint: Path) -> None:
    output, _ = halves(printed)
    given, real, written, plain, scores = (lines(output, kind) for kind in "STHDP")
    assert set(written) == {2, 3}
    # Blocks of three segments of 16 hold a prompt of 40; all text before is what the memory has read.
    whole = " ".join(f"{line.rstrip()} </s>" for line in open(corpus.parent / "test.txt")).split()
    lm = LaMemoLanguageModel.from_pretrained(
        str(checkpoint.parent), checkpoint.name, data_name_or_path=str(corpus), bpe="text_characters"
    )
    whole = [symbol if symbol in lm.src_dict else "<unk>" for symbol in whole]
    for number in (2, 3):
        begin = number * 48
        assert given[number][0] == as_text(whole[begin : begin + 40])
        assert real[number][0].replace("<<unk>>", "<unk>") == as_text(whole[begin : begin + 48])
        symbols = written[number][1].split()
        assert symbols[:40] == whole[begin : begin + 40] and len(symbols) == 240
        assert plain[number] == [written[number][0], as_text(symbols)]
        tokens = torch.tensor([lm.src_dict.index(s) for s in whole[:begin] + symbols])
        # As fairseq has it, scores are those at the temperature.
        read = lm.generator().model.start(lm.prompt(tokens), temperature=0.9)
        expected = read.prompt_scores[0, begin : begin + 40]
        got = torch.tensor([float(score) for score in scores[number][0].split()[:40]]) * torch.tensor(2.0).log()
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_interactive_continues_lines(printed: str) -> None:
    _, output = halves(printed)
    output, conversation = output.split("S-0\t")[1:]
    output = f"S-0\t{output}"
    plain = {number: cells[1] for number, cells in lines(output, "D").items()}
    assert plain[0].startswith("the value of") and plain[1].startswith("a class is")
    for number, prompt in ((0, "the value of"), (1, "a class is")):
        symbols = lines(output, "H")[number][1].split()
        assert len(symbols) == len(prompt) + 60
        runs = [tuple(symbols[n : n + 6]) for n in range(len(symbols) - 5)]
        assert len(runs) == len(set(runs))
    # Line 2 is /clear, so that line 3 is answered as line 0 was.
    remembered = lines(f"S-0\t{conversation}", "H")
    assert set(remembered) == {0, 1, 3} and remembered[0] == remembered[3]


def test_a_seed_repeats(corpus: Path, checkpoint: Path, printed: str) -> None:
    """Another batch size, and so another order of draws, is another run; this is the same one."""
    flags = "--gen-subset test --prefix-size 40 --prompt-blocks 2:4 --carry-memory --sampling --sampling-topp 0.9"
    flags += " --temperature 0.9 --beam 1 --nbest 1 --max-len-b 200 --batch-size 8 --task memory_language_modeling"
    done = run("generate", corpus, *flags.split(), "--path", checkpoint, "--tokens-per-sample", 16, "--seed", 1)
    again, before = lines(done.stdout, "H"), lines(halves(printed)[0], "H")
    assert again == before
    assert "the model was trained with" not in done.stdout


def typed(monkeypatch, corpus: Path, checkpoint: Path, *flags: object) -> str:
    """The line that ends fairseq-interactive with these flags."""
    words = ["fairseq-interactive", corpus, "--user-dir", PLUGIN, "--task", "memory_language_modeling", "--cpu"]
    words += ["--path", checkpoint, "--tokens-per-sample", 16, "--beam", 1, *flags]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(Exception) as error:
        interactive.cli_main()
    line = explain(error.value)
    assert line is not None and "\n" not in line, repr(error.value)
    return line


def test_bad_prompts(monkeypatch, tmp_path: Path, corpus: Path, checkpoint: Path) -> None:
    """Each in the real command's own main function; how lines reach the terminal: tests/test_messages.py."""
    missing, latin, plain = (tmp_path / name for name in ("missing", "latin", "plain"))
    latin.write_bytes("caf\xe9\n".encode("latin-1"))
    plain.write_text("a\n")
    for flags, wanted in (
        (["--input", missing], f"--input {missing} cannot be read (No such file or directory): name a text file"),
        (["--input", latin], f"--input {latin} is not UTF-8"),
        (["--max-len-b", 0], "--max-len-b 0 leaves no token"),
        (["--input", plain, "--prefix-size", 3], "--prompt-blocks and --prefix-size are about"),
        (["--input", plain, "--batch-size", 0], "--batch-size 0 is too small"),
        (["--sampling", "--sampling-topp", 1.2], "--sampling-topp 1.2 is not in (0, 1]"),
    ):
        assert typed(monkeypatch, corpus, checkpoint, *flags).startswith(wanted)


def test_an_ensemble_of_other_dictionaries(monkeypatch, tmp_path: Path, corpus: Path, checkpoint: Path) -> None:
    """The second model was trained with a dictionary of the same size and other words."""
    state = torch.load(checkpoint, weights_only=True)
    state["task_state"]["dictionary"] = {**state["task_state"]["dictionary"], "hash": "another"}
    torch.save(state, tmp_path / "other.pt")
    line = typed(monkeypatch, corpus, f"{checkpoint}:{tmp_path / 'other.pt'}")
    assert "dictionary" in line


def test_generate_without_prompts(corpus: Path, checkpoint: Path) -> None:
    done = run("generate", corpus, "--task", "memory_language_modeling", "--path", checkpoint, "--beam", 1, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("error: fairseq-generate has no prompts: give --prefix-size")


@pytest.mark.parametrize("text", ["a b", "snake_case", "\ttab", "<unk> \u00e9\u4e2d", "\\u5f"])
def test_characters_are_written_as_the_corpus_is(text: str) -> None:
    assert TextCharacters.encode(text) == encode_characters(text)
    assert TextCharacters.decode(encode_characters(text)) == text
