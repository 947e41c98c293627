"""Lines typed to ``fairseq-interactive``: one that cannot be answered is an error of that line alone."""

import sys
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Sequence

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..core.errors import UsageError
from .history import Conversation, continue_prompts
from .search import PromptedGenerator
from .text import encode_text

#: the line that clears a conversation's memory
CLEAR = "/clear"


class TypedLines:
    """The lines of one ``fairseq-interactive``, in buffers; it numbers them over all input.

    Args:
        dictionary: symbols.
        segment: N.
        remembers: whether the memory is carried from each prompt and its answer to the next prompt.
    """

    def __init__(self, dictionary: Dictionary, segment: int, remembers: bool) -> None:
        self.dictionary, self.remembers = dictionary, remembers
        self.conversation = Conversation(segment, dictionary.eos())
        self.lines = 0  # read so far
        self.clear = False  # whether the next prompt finds the memory cleared
        self.clears: Deque[bool] = deque()  # the same, for each prompt that waits for its answer

    def encode(self, lines: Sequence[str], encode: Callable[[str], str]) -> List[Tensor]:
        """Tokens [n] of the next lines, none of a line without a prompt; errors are printed."""
        return [self.encode_line(line, encode) for line in lines]

    def encode_line(self, line: str, encode: Callable[[str], str]) -> Tensor:
        """Tokens [n] of the next line, none where it has no prompt."""
        self.lines += 1
        nothing = torch.empty(0, dtype=torch.long)
        if self.remembers and line == CLEAR:
            self.clear = True
            return nothing
        try:
            tokens = encode_text(line, encode, self.dictionary, f"line {self.lines}")
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return nothing
        self.clears.append(self.clear)
        self.clear = False
        return tokens

    def answer(
        self, generator: PromptedGenerator, models: Sequence[Any], sample: Dict[str, Any]
    ) -> List[List[Dict[str, Tensor]]]:
        """Per prompt of ``sample`` its hypotheses, best first; a conversation's prompts come one by one, in order."""
        if not self.remembers:
            return continue_prompts(generator, models, sample, self.dictionary)
        net_input = sample["net_input"]
        assert len(net_input["src_tokens"]) == 1, "a conversation has one line at a time"
        if self.clears.popleft():
            self.conversation.clear()
        prompt = net_input["src_tokens"][0, : int(net_input["src_lengths"][0])]
        return [self.conversation.answer(generator, models, prompt)]
