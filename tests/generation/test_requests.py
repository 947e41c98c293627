"""Requests from many threads, symbols that stand in no text, scores that are no numbers, lines that have no prompt."""

import math
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from conftest import run
from fairseq.dataclass.configs import GenerationConfig

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.generation.flags import check_generation, check_memory
from lamemo_fairseq.generation.history import Conversation
from lamemo_fairseq.generation.python_api import TextInterface
from lamemo_fairseq.generation.text import LineCodec, suppressed_symbols

SEARCHES: Dict[str, Dict[str, Any]] = {
    "greedy": {},
    "beam": {"beam": 4},
    "sampling": {"sampling": True, "beam": 3},
    "topk": {"sampling": True, "sampling_topk": 12},
    "topp": {"sampling": True, "sampling_topp": 0.9},
    "diverse": {"beam": 4, "diverse_beam_groups": 2},
    "siblings": {"beam": 3, "diversity_rate": 0.4},
}


@pytest.fixture()
def lm(corpus: Path, checkpoint: Path) -> TextInterface:
    return LaMemoLanguageModel.from_pretrained(
        str(checkpoint.parent), checkpoint.name, data_name_or_path=str(corpus), bpe="text_characters"
    )


def unwanted(lm: TextInterface) -> List[int]:
    """Unknown word and padding, which the model is made to like best."""
    words = lm.src_dict
    found = [words.unk(), *(n for n, symbol in enumerate(words.symbols) if symbol.startswith("madeupword"))]
    lm.models[0].decoder.output_bias.data[found] = 20.0
    return found


def test_threads_get_what_each_gets_alone(lm: TextInterface) -> None:
    flags = {"sampling": True, "sampling_topp": 0.9, "max_len_b": 30}

    def ask(seed: int) -> Any:
        stream = [token.id for token in lm.generate_stream("the", seed=seed, **flags)]
        return lm.sample("the value", seed=seed, **flags), stream

    alone = [ask(seed) for seed in range(24)]
    assert len({text for text, _ in alone}) > 12
    before, found = torch.get_rng_state(), [None] * 24

    def work(seed: int) -> None:
        found[seed] = ask(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", SEARCHES)
def test_symbols_that_stand_in_no_text(lm: TextInterface, name: str) -> None:
    never = unwanted(lm)
    assert len(never) > 1, "the corpus has no padding"
    prompt = lm.encode("the")
    for hypothesis in lm.generate([prompt], seed=1, max_len_b=25, **SEARCHES[name])[0]:
        assert not set(hypothesis["tokens"].tolist()) & set(never)
    asked = lm.generate([prompt], seed=1, max_len_b=25, write_unk=True, **SEARCHES[name])[0]
    assert any(lm.src_dict.unk() in hypothesis["tokens"].tolist() for hypothesis in asked)
    if name in ("greedy", "sampling", "topk", "topp"):
        flags = {flag: value for flag, value in SEARCHES[name].items() if flag != "beam"}
        stream = [token.id for token in lm.generate_stream("the", seed=1, max_len_b=25, **flags)]
        assert not set(stream) & set(never)
    assert lm.src_dict.eos() not in suppressed_symbols(lm.src_dict, False)


def greedily(path: Path) -> List[Any]:
    """Flags of a command that writes the most probable text."""
    return ["--task", "memory_language_modeling", "--path", path, "--tokens-per-sample", 16, "--beam", 1, "--cpu"]


def damaged(checkpoint: Path, folder: Path, value: float) -> Path:
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["decoder.output_bias"][5] = value
    torch.save(state, folder / "damaged.pt")
    return folder / "damaged.pt"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers(tmp_path: Path, corpus: Path, checkpoint: Path, value: float) -> None:
    path = damaged(checkpoint, tmp_path, value)
    flags = greedily(path)
    for command, more, text in (
        ("generate", ["--prefix-size", 5, "--max-len-b", 5, "--prompt-blocks", "0"], None),
        ("interactive", ["--bpe", "text_characters", "--max-len-b", 5], "the\n"),
    ):
        done = run(command, corpus, *flags, *more, check=False, input=text)
        assert done.returncode != 0 and "Traceback" not in done.stdout
        assert f"error: {path} gives scores that are not finite" in done.stdout


def test_a_line_without_a_prompt(corpus: Path, checkpoint: Path) -> None:
    flags = [*greedily(checkpoint), "--bpe", "text_characters", "--max-len-b", 5]
    for buffer in (1, 2, 8):
        text = "the value\n\na \u4e2dx b\na class\n"
        done = run("interactive", corpus, *flags, "--buffer-size", buffer, input=text)
        assert "D-0\t" in done.stdout and "D-3\t" in done.stdout
        assert "D-1\t" not in done.stdout and "D-2\t" not in done.stdout
        assert "error: line 2 is empty" in done.stdout
        assert "error: line 3 has symbols that the dictionary lacks: \u4e2dx (\u4e2d)" in done.stdout


def test_a_conversation_is_one_text(lm: TextInterface) -> None:
    """Scores of the second answer are those of the whole text read at once; cleared, those of the line alone."""
    generator, models = lm.generator(max_len_b=21), list(lm.models)
    conversation = Conversation(lm.models[0].decoder.segment_length, lm.src_dict.eos())
    (first,) = conversation.answer(generator, models, lm.encode("the value of"))
    (second,) = conversation.answer(generator, models, lm.encode("a class"))
    eos = first["tokens"].new_tensor([lm.src_dict.eos()])
    between = eos if int(first["tokens"][-1]) != lm.src_dict.eos() else eos[:0]
    whole = torch.cat([first["tokens"], between, second["tokens"]])
    expected = lm.score_tokens(generator.model, whole)["positional_scores"][-len(second["tokens"]) :]
    torch.testing.assert_close(second["positional_scores"], expected, rtol=0, atol=1e-4)
    conversation.clear()
    (again,) = conversation.answer(generator, models, lm.encode("a class"))
    assert again["tokens"].tolist() == lm.generate([lm.encode("a class")], max_len_b=21)[0][0]["tokens"].tolist()


def test_a_session_that_remembers(corpus: Path, checkpoint: Path) -> None:
    flags = [*greedily(checkpoint), "--bpe", "text_characters", "--max-len-b", 20, "--carry-memory"]

    def scores(text: str, buffer: int) -> Dict[str, str]:
        done = run("interactive", corpus, *flags, "--buffer-size", buffer, input=text)
        rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("P-")]
        return {name: values for name, values in rows}

    for buffer in (1, 4):
        found = scores("a class\na class\n/clear\na class\n", buffer)
        assert set(found) == {"P-0", "P-1", "P-3"}
        assert found["P-0"] == found["P-3"] != found["P-1"]


ODD = {float: [math.nan, math.inf, -math.inf, -2.0, 0.0, 1e30], int: [-2, 0, 7, 10**9], bool: [True], str: ["x"]}


def test_every_flag_of_generation_with_odd_values(lm: TextInterface) -> None:
    """Each either makes a search that runs, or is an error of one line."""
    prompt, refused = lm.encode("the"), 0
    for name, field in GenerationConfig.__dataclass_fields__.items():
        if name.startswith("_"):
            continue
        kind = type(field.default) if field.default is not None else str
        kind = float if name in ("max_len_a", "lenpen", "unkpen") else kind
        for value in ODD[kind]:
            flags = {"max_len_b": 4, "beam": 2, "nbest": 1, name: value}
            try:
                lm.generate([prompt], **flags)
            except UsageError as error:
                assert "\n" not in str(error), name
                refused += 1
    assert refused > 60


def test_texts_are_bound_by_memory() -> None:
    with pytest.raises(UsageError, match="ask for 1000000000 new tokens.*GiB are free"):
        check_memory(10**9, 10**9, 64, 5, torch.device("cpu"))
    check_memory(1000, 1000, 64, 5, torch.device("cpu"))


@pytest.mark.parametrize("flags", [{}, {"sampling": True}, {"beam": 3}])
def test_no_word_is_left(lm: TextInterface, flags: Dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--no-repeat-ngram-size 1 leaves no word"):
        lm.sample("the", max_len_b=200, no_repeat_ngram_size=1, **flags)
    if "beam" not in flags:
        with pytest.raises(UsageError, match="--no-repeat-ngram-size 1 leaves no word"):
            list(lm.generate_stream("the", max_len_b=200, no_repeat_ngram_size=1, **flags))


def test_sampling_shows_all_it_draws(lm: TextInterface) -> None:
    args = Namespace(**{**vars(GenerationConfig()), "sampling": True, "beam": 3, "nbest": 1})
    with pytest.raises(UsageError, match="--nbest 1 with --beam 3: --sampling draws"):
        check_generation(args, list(lm.models))


def test_line_ends_in_plain_text() -> None:
    assert LineCodec(None, "</s>").decode("a b </s> </s> c </s>") == "a b\n\nc\n"
