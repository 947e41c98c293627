"""The form of a text: words, characters, bytes, or pieces of words, tokenized by Moses or as it stands."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import UsageError
from ..text_form import CODECS, text_form
from . import bpe, corpus
from .binarize import read_dictionary
from .corpus import CODES, DICT, SENTENCEPIECE, WORDS, Corpus, Encoder, Manifest
from .read import LONGEST, file_hash

SAMPLED = 20_000_000  # characters that sentencepiece learns from at most: what bounds its memory, at 20 bytes each


@dataclass(frozen=True)
class Form:
    """How a text becomes tokens.

    Attributes:
        units: WORDS (also pieces of them), CHARACTERS or BYTES.
        merges: cut words by as many merges, learned from the training text.
        codes: cut words by these merges of fastBPE.
        sentencepiece: cut words by a sentencepiece model: the number of pieces to learn, or the file of a model.
        moses: language of Moses' tokenizer, before all else.
        dictionary: a ``dict.txt`` in place of one made from the training text.
    """

    units: str = WORDS
    merges: int | None = None
    codes: Path | None = None
    sentencepiece: int | Path | None = None
    moses: str | None = None
    dictionary: Path | None = None


def prepare(dest: Path, text: Corpus, form: Form, force: bool = False) -> Manifest:
    """Prepares ``text`` in that form; what of it is there already is kept."""
    if "train" not in text.splits:
        if form.dictionary is None:
            raise UsageError("--train is missing: name it, or the --dict of the model that is to read this text")
        if form.merges is not None or isinstance(form.sentencepiece, int):
            raise UsageError("pieces are learned from --train: name it, or what the model's own data were cut with")
    if form.units != WORDS and form.moses is not None:
        raise UsageError(f"--moses {form.moses} tokenizes words: leave it out with --{form.units}")
    made = replace(text, units=form.units)
    for apply in (with_moses, with_dictionary, with_codes, with_sentencepiece_model):
        made = apply(made, form)
    if form.merges is not None:
        return bpe.prepare(dest, made, form.merges, force)
    if isinstance(form.sentencepiece, int):
        return learn_sentencepiece(dest, made, form.sentencepiece, force)
    return corpus.prepare(dest, made, force)


def described(text: Corpus, how: str, *files: Path) -> Corpus:
    """``text`` under a name that says how it was made, and of which files."""
    inputs = text.inputs + "".join(map(file_hash, files))
    return replace(text, source=f"{text.source} ({how})", inputs=hashlib.sha256(inputs.encode()).hexdigest())


def chained(first: Encoder | None, second: Encoder) -> Encoder:
    """One encoder after the other."""
    return second if first is None else lambda lines: second(first(lines))


def with_moses(text: Corpus, form: Form) -> Corpus:
    """Tokenized as ``--tokenizer moses`` of fairseq's commands does by default."""
    if form.moses is None:
        return text
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(form.moses)

    def tokenize(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield moses.tokenize(line, aggressive_dash_splits=True, return_str=True, escape=True)

    return replace(described(text, f"Moses, {form.moses}"), encode=tokenize, moses=form.moses)


def with_dictionary(text: Corpus, form: Form) -> Corpus:
    """With the symbols of a model."""
    if form.dictionary is None:
        return text
    read_dictionary(form.dictionary)
    check_cut(form, form.dictionary)
    named = described(text, f"dictionary {form.dictionary}", form.dictionary)
    return replace(named, extras={**text.extras, DICT: form.dictionary})


def check_cut(form: Form, dictionary: Path) -> None:
    """Raises ``UsageError`` where what lies beside ``dictionary`` says that its own text was cut otherwise.

    Tokens of another cut are nearly all unknown, and ``<unk>`` is so easy to guess that scores look good.
    """
    options = text_form(str(dictionary.parent))
    if not options:  # words, or nothing is known
        return
    units = {f"--{name}": "" for name, codec in CODECS.items() if codec == options.get("bpe")}
    files = {"--codes": options.get("bpe_codes"), "--sentencepiece": options.get("sentencepiece_model")}
    theirs = {**units, **files, "--moses": options.get("source_lang")}
    ours = {"--codes": form.codes, "--sentencepiece": form.sentencepiece, "--bpe": form.merges, "--moses": form.moses}
    if form.units != WORDS:
        ours[f"--{form.units}"] = ""
    if contents(theirs) != contents(ours):
        flags = " ".join(f"{flag} {value}".strip() for flag, value in theirs.items() if value is not None)
        raise UsageError(
            f"--dict {dictionary} is of text that was cut with {flags}, and this one would not be: give the same (or, "
            "where it is cut so already, a copy of the dictionary without what lies beside it)"
        )


def contents(flags: Mapping[str, object]) -> dict[str, object]:
    """Flags that are given, with the checksum of each file that they name in its place."""
    found = {flag: value for flag, value in flags.items() if value is not None}
    return {flag: file_hash(Path(str(v))) if v and Path(str(v)).is_file() else v for flag, v in found.items()}


def with_codes(text: Corpus, form: Form) -> Corpus:
    """Cut by merges that are there already."""
    if form.codes is None:
        return text
    codes = form.codes
    bpe.check_codes(codes)
    named = described(text, f"byte-pair encoding, {codes}", codes)
    encode = chained(text.encode, lambda lines: bpe.apply(codes, lines))
    return replace(named, encode=encode, extras={**text.extras, CODES: codes})


def check_sentencepiece() -> None:
    """Raises ``UsageError`` where there is no sentencepiece."""
    if importlib.util.find_spec("sentencepiece") is None:
        raise UsageError("--sentencepiece needs a package that is not installed: pip install sentencepiece")


def with_sentencepiece_model(text: Corpus, form: Form) -> Corpus:
    """Cut by a sentencepiece model that is there already."""
    if not isinstance(form.sentencepiece, Path):
        return text
    path = form.sentencepiece
    check_sentencepiece()
    if not path.is_file():
        raise UsageError(f"--sentencepiece {path} is not a file: name a model, or how many pieces to learn")
    named = described(text, f"sentencepiece, {path}", path)
    encode = chained(text.encode, lambda lines: cut_by_sentencepiece(path, lines))
    return replace(named, encode=encode, extras={**text.extras, SENTENCEPIECE: path})


def cut_by_sentencepiece(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Lines as pieces of a sentencepiece model."""
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--sentencepiece {path} is no model of sentencepiece: name one, or a number") from error
    for line in lines:
        yield " ".join(model.encode(line, out_type=str))


def sample(lines: Iterable[str], most: int) -> list[str]:
    """Every k-th of the lines that are not blank; k = 1, 2, 4 ... keeps them below ``most`` characters."""
    kept: list[str] = []
    size, step = 0, 1
    for number, line in enumerate(line for line in lines if line.strip()):
        if number % step == 0:
            kept.append(line)
            size += len(line)
        while size > most and len(kept) > 1:
            kept, step = kept[::2], 2 * step
            size = sum(map(len, kept))
    return kept


def learn_sentencepiece(dest: Path, text: Corpus, pieces: int, force: bool) -> Manifest:
    """A unigram model of so many pieces, learned from the training text, travels with the data as ``spm.model``.

    Kudo, arXiv 1804.10959. The text is not normalised, and every character of the sample (:func:`sample`) has a piece.
    """
    check_sentencepiece()
    named = described(text, f"sentencepiece, {pieces} pieces")
    if corpus.is_whole(dest, named):
        return corpus.binarize(dest)
    corpus.check_replaces_nothing(dest, named, force)
    import sentencepiece

    print(f"learning {pieces} pieces from the training text alone, of {text.source}", flush=True)
    before = text.encode or (lambda lines: lines)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SENTENCEPIECE
        lines = sample(before(text.splits["train"]), SAMPLED)
        try:
            with open(path, "wb") as file:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(lines),
                    model_writer=file,
                    vocab_size=pieces,
                    max_sentence_length=4 * LONGEST,
                    character_coverage=1.0,
                    normalization_rule_name="identity",
                    num_threads=1,
                    minloglevel=2,
                )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"--sentencepiece {pieces} does not suit this text ({reason}): choose another") from error
        encode = chained(text.encode, lambda lines: cut_by_sentencepiece(path, lines))
        return corpus.prepare(dest, replace(named, encode=encode, extras={**text.extras, SENTENCEPIECE: path}), force)
