r"""Bytes as tokens: those of ASCII as ``characters.py`` writes their character, others as ``\x`` and two digits."""

from .characters import decode_token, encode_character

TOKENS = [encode_character(chr(value)) if value < 128 else f"\\x{value:02x}" for value in range(256)]


def encode_bytes(raw: bytes) -> str:
    """Bytes as tokens, with spaces between them."""
    return " ".join([TOKENS[value] for value in raw])


def decode_bytes(tokens: str) -> str:
    """The text of UTF-8 that tokens spell; bytes that are no UTF-8 become U+FFFD, symbols such as ``</s>`` stay."""
    raw = bytearray()
    for token in tokens.split():
        if token.startswith("\\x") and len(token) == 4:
            raw.append(int(token[2:], 16))
        else:
            raw += decode_token(token).encode("utf-8")
    return raw.decode("utf-8", "replace")
