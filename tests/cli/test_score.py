"""``lamemo score``: of plain text what ``fairseq-eval-lm`` says of its data-bin, whatever the text is cut into."""

import gzip
import json
import math
import re
from pathlib import Path
from pydoc_data import topics
from typing import Any, Iterator, List

import pytest
from conftest import TINY, run
from eval_reports import eval_lm, report

from lamemo_fairseq.cli.main import main as lamemo
from lamemo_fairseq.evaluation.score_text import segments_of

FORMS = {
    "words": ["--words"],
    "characters": ["--characters"],
    "bpe": ["--bpe", "90"],
    "sentencepiece": ["--sentencepiece", "120"],
    "moses": ["--bpe", "90", "--moses", "en"],
}


@pytest.fixture(scope="module", params=FORMS)
def trained(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, their data-bin and a model."""
    folder = tmp_path_factory.mktemp(request.param)
    text = [line.strip() for _, topic in sorted(topics.topics.items()) for line in topic.splitlines()][:330]
    for split, lines in {
        "train": text[:300],
        "valid": text[300:305],
        "test": ["Ünder", *text[305:], "", "isn't"],
    }.items():
        (folder / split).write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [word for split in ("train", "valid", "test") for word in (f"--{split}", str(folder / split))]
    assert lamemo(["prepare", "text", *texts, "--dest", str(folder / "corpus"), *FORMS[request.param]]) == 0
    run("train", folder / "corpus/data-bin", *TINY, "--max-update", 3, "--save-dir", folder / "run")
    return folder


def scores(capsys: Any, *words: object) -> List[Any]:
    """What the command printed as JSON."""
    capsys.readouterr()
    assert lamemo(["score", *map(str, words), "--json", "--device", "cpu"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_plain_text_scores_as_its_data_bin(trained: Path, tmp_path: Path, capsys: Any) -> None:
    told = report(eval_lm(trained / "corpus/data-bin", trained / "run/checkpoint_last.pt", tmp_path / "log").succeed())
    [found] = scores(capsys, trained / "run", trained / "test", "--tokens-per-sample", 16)
    for ours, theirs in {"tokens": "scored", "unknown": "unknown", "words": "words", "bytes": "bytes"}.items():
        assert found[ours] == told[theirs]
    assert found["characters"] == told["characters"] == len((trained / "test").read_text(encoding="utf-8"))
    assert found["loss_nats"] == pytest.approx(told["loss"], abs=2e-6)
    assert found["bits_per_byte"] == pytest.approx(told["bits_per_byte"], abs=2e-6)
    assert math.log2(found["perplexity_per_character"]) == pytest.approx(told["bpc"], abs=2e-6)
    assert found["perplexity_per_word"] == pytest.approx(told["word_perplexity"], rel=1e-3)
    capsys.readouterr()
    assert lamemo(["score", str(trained / "run"), str(trained / "test"), "--tokens-per-sample", "16"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{trained / 'test'}: {found['tokens']} targets scored, ")
    assert ("warning: " in shown.err) == (100 * found["unknown"] > found["tokens"])


def test_each_file_by_itself_and_all_together(trained: Path, tmp_path: Path, capsys: Any) -> None:
    with gzip.open(tmp_path / "packed.gz", "wb") as file:
        file.write((trained / "valid").read_bytes())
    one, other, packed, whole = scores(
        capsys, trained / "run", trained / "test", trained / "valid", tmp_path / "packed.gz"
    )
    assert whole["file"] == "all 3 files"
    assert {**other, "file": ""} == {**packed, "file": ""}, "each begins with an empty memory"
    for name in ("tokens", "words", "characters", "bytes", "unknown", "lines"):
        assert whole[name] == one[name] + 2 * other[name]
    nats = [part["loss_nats"] * part["tokens"] for part in (one, other, other)]
    assert whole["loss_nats"] == pytest.approx(sum(nats) / whole["tokens"], rel=1e-9)


def test_mistakes_are_one_line(trained: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for words, line in [
        ([trained / "none.pt", trained / "test"], "is no file: name a checkpoint"),
        ([trained / "run", tmp_path / "none"], "FILE .*none cannot be read"),
        ([trained / "run", tmp_path / "latin"], "FILE .*latin is not UTF-8"),
        ([trained / "run", trained / "test", "--tokens-per-sample", "0"], "--tokens-per-sample 0 is too small"),
    ]:
        assert lamemo(["score", *map(str, words)]) == 1

        assert re.search(line, capsys.readouterr().err)


def test_a_long_file_is_not_held() -> None:
    """Lines are read as segments need them."""
    read = []

    def tokens() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    assert next(segments_of(tokens(), 7)) == list(range(7)) and len(read) == 7
