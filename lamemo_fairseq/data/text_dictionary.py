"""The dictionary of running text."""

from typing import Any

from fairseq.data import Dictionary


class TextDictionary(Dictionary):
    """Fairseq's dictionary, in which ``</s>`` is a symbol of the text, and shown where it stands."""

    def string(self, *args: Any, **kwargs: Any) -> str:
        """As fairseq's, with ``</s>``."""
        return super().string(*args, **{**kwargs, "include_eos": True})
