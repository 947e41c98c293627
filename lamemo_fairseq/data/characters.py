r"""Characters as tokens, in data and in prompts: what ``--bpe text_characters`` writes and reads. Needs no fairseq.

Every character becomes one token. A space becomes ``_``; a real ``_`` and other white space become ``\u`` and their
hexadecimal code (``\u5f`` for ``_``). That is how ``lamemo prepare`` writes texts. Fairseq has a ``characters``
of its own, which writes a space as U+2581, and which its commands cannot find.
"""

from typing import Any


class TextCharacters:
    """Encoder and decoder in the form that fairseq calls a BPE."""

    def __init__(self, *unused: Any) -> None:
        pass

    @staticmethod
    def encode(x: str) -> str:
        """Text as tokens, with spaces between them."""
        return " ".join(map(encode_character, x))

    @staticmethod
    def decode(x: str) -> str:
        """Tokens as text, on one line: symbols such as ``</s>``, which stands where a line ended, stay."""
        return "".join(map(decode_token, x.split()))


def encode_character(character: str) -> str:
    """The token of a character."""
    if character == " ":
        return "_"
    if character == "_" or character.isspace():
        return f"\\u{ord(character):x}"
    return character


def decode_token(token: str) -> str:
    """The character of a token, or the symbol that it is."""
    if token == "_":
        return " "
    return chr(int(token[2:], 16)) if token.startswith("\\u") and len(token) > 2 else token
