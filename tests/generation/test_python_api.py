"""The Python interface, on a model that fairseq-train wrote."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from commands import ROOT
from fairseq.data import Dictionary, encoders

from lamemo_fairseq import LaMemoLanguageModel
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.data.dictionary import identify
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.generation.python_api import TextInterface

SAMPLING = {"sampling": True, "sampling_topk": 8, "max_len_b": 50}


@pytest.fixture(scope="module")
def lm(corpus: Path, checkpoint: Path) -> TextInterface:
    folder, name = checkpoint.parent, checkpoint.name
    return LaMemoLanguageModel.from_pretrained(str(folder), name, data_name_or_path=str(corpus), bpe="text_characters")


def test_samples_are_repeatable(lm: TextInterface) -> None:
    state = torch.get_rng_state()
    one, other, third = (lm.sample("The value of\na", seed=seed, **SAMPLING) for seed in (3, 3, 4))
    assert one == other != third
    assert one.startswith("The value of\na")
    assert len(lm.encode(one)) == len("The value of\na") + 50
    assert torch.equal(state, torch.get_rng_state())


def test_a_stream_writes_what_sample_does(lm: TextInterface) -> None:
    for flags in (SAMPLING, {"max_len_b": 40}, {"max_len_b": 40, "no_repeat_ngram_size": 2}):
        prompt = lm.encode("if the")
        (best,) = lm.generate([prompt], seed=5, **flags)[0]
        written = []
        for token in lm.generate_stream("if the", seed=5, **flags):
            torch.rand(1)  # what the caller draws in between does not matter
            written.append(token)
        assert [token.id for token in written] == best["tokens"][len(prompt) :].tolist()
        torch.testing.assert_close(
            torch.tensor([token.score for token in written]), best["positional_scores"][len(prompt) :]
        )
        assert torch.is_grad_enabled()


def test_a_stream_can_stop_at_a_line_end(lm: TextInterface) -> None:
    ends = [
        len(list(lm.generate_stream("x", seed=n, stop_at_eos=True, **{**SAMPLING, "sampling_topk": 40})))
        for n in range(8)
    ]
    assert min(ends) < 50


def test_scores_are_those_of_the_segments(lm: TextInterface) -> None:
    text = "A class is a template.\nIts value is an object, and so are all others that come after it.\n"
    found, tokens = lm.score(text), lm.encode(text)
    assert found["tokens"].tolist() == tokens.tolist()
    decoder, store = lm.models[0].decoder, MemoryStore("test")
    N = decoder.segment_length
    assert N == 16  # the checkpoint's, without being named
    source = torch.cat([tokens.new_tensor([lm.src_dict.eos()]), tokens[:-1]]).unsqueeze(0)
    with torch.no_grad():
        scores = [decoder(piece, store=store, segment=k)[0] for k, piece in enumerate(source.split(N, dim=1))]
    expected = torch.cat(scores, 1).log_softmax(-1)[0].gather(1, tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found["positional_scores"], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["score"], expected.mean(), rtol=0, atol=1e-5)


def test_prompts_of_unequal_length(lm: TextInterface) -> None:
    prompts = ["The", "The value of\nan object that", "a"]
    assert lm.sample(prompts, beam=3, max_len_b=20) == [lm.sample(one, beam=3, max_len_b=20) for one in prompts]


def test_text_survives(lm: TextInterface) -> None:
    for text in ("a b", " a\n\n b ", "a class\n"):
        assert lm.decode(lm.encode(text)) == text


def test_words_go_through_moses_and_fastbpe(tmp_path: Path, checkpoint: Path) -> None:
    """Raw text in, raw text out, by fairseq's own encoders; the model is the tiny one with other symbols."""
    pytest.importorskip("fastBPE")
    (tmp_path / "codes").write_text("t h 9\nth e</w> 8\no u 7\n")
    text = "The cat isn't here, said the other."
    tokenizer = encoders.build_tokenizer(Namespace(tokenizer="moses", source_lang="en", target_lang="en"))
    bpe = encoders.build_bpe(Namespace(bpe="fastbpe", bpe_codes=str(tmp_path / "codes")))
    symbols = bpe.encode(tokenizer.encode(text)).split()
    assert "the" in symbols and "&apos;@@" not in symbols and any(symbol.endswith("@@") for symbol in symbols)
    state = torch.load(checkpoint, weights_only=True)
    known = list(dict.fromkeys(symbols))
    size = state["model"]["decoder.embed_tokens.weight"].size(0) - 4
    known += [f"filler{number}" for number in range(size - len(known))]
    (tmp_path / "dict.txt").write_text("".join(f"{symbol} 1\n" for symbol in known))
    state["task_state"]["dictionary"] = identify(Dictionary.load(str(tmp_path / "dict.txt")))
    torch.save(state, tmp_path / "model.pt")
    flags = {"tokenizer": "moses", "bpe": "fastbpe", "bpe_codes": str(tmp_path / "codes")}
    lm = LaMemoLanguageModel.from_pretrained(str(tmp_path), **flags)
    assert [lm.src_dict[token] for token in lm.encode(text)] == symbols
    assert lm.decode(lm.encode(text)) == text
    assert lm.sample(text, max_len_b=5).startswith(text[:-1])


@pytest.mark.parametrize(
    "prompt, flags, line",
    [
        ("", {}, "the text is empty"),
        ("\u4e2d", {}, "the dictionary lacks: \u4e2d"),
        ("a", {"max_len_b": 0}, "--max-len-b 0"),
        ("a", {"sampling": True, "sampling_topp": 2.0}, "--sampling-topp 2"),
        ("a", {"max_length": 3}, "max_length is no flag of generation"),
    ],
)
def test_mistakes(lm: TextInterface, prompt: str, flags: dict, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        lm.sample(prompt, **flags)
    with pytest.raises(UsageError, match=line):
        lm.generate_stream(prompt, **flags)


def test_missing_files(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="has none of model.pt"):
        LaMemoLanguageModel.from_pretrained(str(tmp_path))
    with pytest.raises(UsageError, match="other.pt does not exist"):
        LaMemoLanguageModel.from_pretrained(str(checkpoint.parent), "other.pt")
    with pytest.raises(UsageError, match="has no dict.txt.*data_name_or_path"):
        LaMemoLanguageModel.from_pretrained(str(checkpoint.parent), checkpoint.name)


def test_the_documented_example(corpus: Path, checkpoint: Path, monkeypatch, capsys) -> None:
    readme = (ROOT / "examples" / "generation" / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    monkeypatch.setenv("MODEL", str(checkpoint))
    monkeypatch.setenv("DATA", str(corpus))
    exec(compile(code, "README.md", "exec"), {})
    assert "the value of" in capsys.readouterr().out
