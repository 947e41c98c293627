"""Raw text for models of characters and of bytes: ``--bpe text_characters``, ``--bpe text_bytes``."""

from dataclasses import dataclass
from typing import Any

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from ..data.byte_tokens import decode_bytes, encode_bytes
from ..data.characters import TextCharacters


@dataclass
class TextEncoderConfig(FairseqDataclass):
    """There are no flags; but only what has a configuration can be named on the command line."""


register_bpe("text_characters", dataclass=TextEncoderConfig)(TextCharacters)


@register_bpe("text_bytes", dataclass=TextEncoderConfig)
class TextBytes:
    """Encoder and decoder in the form that fairseq calls a BPE."""

    def __init__(self, *unused: Any) -> None:
        pass

    @staticmethod
    def encode(x: str) -> str:
        """Text as tokens, a byte of its UTF-8 each, with spaces between them."""
        return encode_bytes(x.encode("utf-8"))

    @staticmethod
    def decode(x: str) -> str:
        """Tokens as text."""
        return decode_bytes(x)
