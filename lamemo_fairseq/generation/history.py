"""The memory before a prompt: of a split up to a block, and of a conversation up to its next line.

Letters as in ``session.py``.
"""

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..core.memory import MemoryState
from ..data.text import Text
from .search import PromptedGenerator
from .session import Prompts


def read_segment(decoder: Any, state: MemoryState, tokens: Tensor) -> MemoryState:
    """The memory behind a segment ``tokens`` [B, N], from that before it."""
    segment = decoder.new_segment(tokens.size(0), state)
    for _ in decoder.decode_tokens(tokens, segment):
        pass
    segment.close(decoder.memory)
    return segment.state


class History:
    """The memory of all text before a segment: the split is read from its beginning, once per model, in order.

    Args:
        text: the split.
        segment: N.
        eos: source of the text's first token.
    """

    def __init__(self, text: Text, segment: int, eos: int) -> None:
        self.text, self.segment, self.eos = text, segment, eos
        self.reached: Dict[Any, Tuple[int, MemoryState]] = {}

    def before(self, decoder: Any, segment: int) -> MemoryState:
        """The state of one stream before ``segment``; asked for in rising order."""
        if decoder not in self.reached:
            self.reached[decoder] = (0, decoder.new_segment(1).state)
        number, state = self.reached[decoder]
        assert number <= segment, "a history is read forwards"
        device = next(decoder.parameters()).device
        while number < segment:
            state = read_segment(decoder, state, self.source(number).to(device).unsqueeze(0))
            number += 1
        self.reached[decoder] = number, state
        return state

    def source(self, segment: int) -> Tensor:
        """What a model reads in a segment: its text, one token earlier."""
        begin = segment * self.segment
        return torch.cat([self.start(begin), self.text.span(begin, begin + self.segment - 1)])

    def start(self, begin: int) -> Tensor:
        """The token before token ``begin`` of the text, [1]."""
        return self.text.span(begin - 1, begin) if begin > 0 else torch.tensor([self.eos])


class Conversation:
    """A text that is typed and written in turns, each line a prompt; what was said before is in the memory.

    The text is read in whole segments from its beginning, as if it had been there at once: the memory stands before
    the segment that is not full yet, whose tokens come again with the next prompt. A line end stands behind every
    answer.

    Args:
        segment: N.
        eos: the line end.
    """

    def __init__(self, segment: int, eos: int) -> None:
        self.segment, self.eos = segment, eos
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.before: Optional[List[MemoryState]] = None  # per model
        self.start = self.eos  # the token before the segment
        self.tokens: List[int] = []  # those of the segment so far

    def answer(self, generator: PromptedGenerator, models: Sequence[Any], prompt: Tensor) -> List[Dict[str, Tensor]]:
        """Hypotheses that continue ``prompt`` [n], best first; the best one is remembered."""
        if self.tokens and self.tokens[-1] != self.eos:
            self.tokens.append(self.eos)
        tokens = torch.cat([prompt.new_tensor(self.tokens), prompt]).unsqueeze(0)
        lengths, start = prompt.new_tensor([tokens.size(1)]), prompt.new_tensor([self.start])
        (found,) = generator.write(Prompts(tokens, lengths, start, self.before, len(self.tokens)))
        self.add(models, found[0]["tokens"])
        return found

    @torch.no_grad()
    def add(self, models: Sequence[Any], tokens: Tensor) -> None:
        """Reads ``tokens`` [n] that go on with the text."""
        self.tokens += tokens.tolist()
        while len(self.tokens) >= self.segment:
            source = tokens.new_tensor([[self.start, *self.tokens[: self.segment - 1]]])
            before = self.before or [model.decoder.new_segment(1).state for model in models]
            self.before = [read_segment(model.decoder, state, source) for model, state in zip(models, before)]
            self.start, self.tokens = self.tokens[self.segment - 1], self.tokens[self.segment :]


def continue_prompts(
    generator: PromptedGenerator,
    models: Sequence[Any],
    sample: Dict[str, Any],
    dictionary: Dictionary,
) -> List[List[Dict[str, Tensor]]]:
    """What fairseq's ``inference_step`` returns: per prompt of ``sample`` its hypotheses, best first."""
    net_input = sample["net_input"]
    tokens, lengths = net_input["src_tokens"], net_input["src_lengths"]
    if "history" not in sample:
        return generator.write(Prompts(tokens, lengths, torch.full_like(lengths, dictionary.eos())))
    history, segments = sample["history"], sample["first_segment"].tolist()
    start = torch.cat([history.start(segment * history.segment) for segment in segments]).to(lengths)
    states = [[history.before(model.decoder, segment) for model in models] for segment in segments]
    found: List[List[Dict[str, Tensor]]] = [[] for _ in segments]
    for group in group_by_shape(states):
        before = [stack([states[number][model] for number in group]) for model in range(len(models))]
        texts = generator.write(Prompts(tokens[group], lengths[group], start[group], before))
        for number, hypotheses in zip(group, texts):
            found[number] = hypotheses
    return found


def group_by_shape(states: List[List[MemoryState]]) -> List[List[int]]:
    """Numbers of the prompts whose states have equal shapes: near a text's beginning memories are still filling."""

    def shapes(state: MemoryState) -> Any:
        absent = (state.documents is None, state.last is None)  # before the first token nothing was read
        return state.length, state.last_written, absent, tuple(tensor.shape for tensor in state.tensors.values())

    groups: Dict[Any, List[int]] = {}
    for number, each in enumerate(states):
        groups.setdefault(tuple(map(shapes, each)), []).append(number)
    return list(groups.values())


def stack(states: List[MemoryState]) -> MemoryState:
    """One state of B streams from B states of one stream each, of equal shapes."""
    first = states[0]

    def together(tensors: Sequence[Optional[Tensor]]) -> Optional[Tensor]:
        found = [tensor for tensor in tensors if tensor is not None]
        assert len(found) in (0, len(tensors)), "states of unequal shapes"
        return torch.cat(found) if found else None

    return replace(
        first,
        tensors={name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors},
        documents=together([state.documents for state in states]),
        last=together([state.last for state in states]),
    )
