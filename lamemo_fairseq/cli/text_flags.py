"""How text is cut into tokens, as flags: for commands that read plain text with a trained model."""

import argparse
from typing import Dict

from ..core.errors import UsageError


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, all of them for data that do not say it themselves."""
    parser.add_argument(
        "--bpe", metavar="NAME", help="how text is cut, e.g. text_characters (default: as the data was)"
    )
    parser.add_argument("--bpe-codes", metavar="FILE", help="merges of --bpe fastbpe")
    parser.add_argument("--sentencepiece-model", metavar="FILE", help="model of --bpe sentencepiece")
    parser.add_argument("--moses", metavar="LANG", help="tokenize as Moses does for this language")


def text_options(arguments: argparse.Namespace, folder: str) -> Dict[str, str]:
    """Fairseq's options for the text: as ``folder`` says, changed by the flags that were given."""
    from fairseq.registry import REGISTRIES

    from ..data.text_form import FILES, text_form

    form = text_form(folder)
    if arguments.bpe is not None:
        known = REGISTRIES["bpe"]["registry"]
        if arguments.bpe not in known:
            raise UsageError(f"--bpe {arguments.bpe} is not known: choose one of {', '.join(sorted(known))}")
        form.update(bpe=arguments.bpe)
    form.update({name: getattr(arguments, name) for name in FILES if getattr(arguments, name) is not None})
    if arguments.moses is not None:
        form.update(tokenizer="moses", source_lang=arguments.moses, target_lang=arguments.moses)
    return form
