"""Prompts: the beginnings of a split's blocks for ``fairseq-generate``, lines of text for ``fairseq-interactive``.

Letters as in ``ops.py``; P tokens of the longest prompt.
"""

import logging
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, data_utils, iterators
from torch import Tensor

from ..core.errors import UsageError
from ..core.memory import MemoryState
from ..data.layout import Text
from .search import PromptedGenerator, Prompts

logger = logging.getLogger(__name__)


class PromptLines(FairseqDataset):
    """Prompts [n] of any lengths, as they were typed. The longest come first: rows of one batch are then alike."""

    def __init__(self, tokens: Sequence[Tensor], pad: int) -> None:
        self.tokens, self.pad = tokens, pad

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        return {"id": int(index), "prompt": self.tokens[index]}

    def num_tokens(self, index: int) -> int:
        return int(self.tokens[index].numel())

    size = num_tokens

    def ordered_indices(self) -> np.ndarray:
        lengths = np.array([len(prompt) for prompt in self.tokens])
        return np.argsort(-lengths, kind="stable")

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """``src_tokens`` [B, P], padded on the right, and ``src_lengths`` [B]."""
        prompts = [sample["prompt"] for sample in samples]
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "net_input": {
                "src_tokens": data_utils.collate_tokens(prompts, self.pad),
                "src_lengths": torch.tensor([len(prompt) for prompt in prompts]),
            },
            "target": None,
        }


class PromptBlocks(FairseqDataset):
    """Consecutive blocks of a split; each begins with its prompt, and goes on as the text really does.

    Args:
        text: the split.
        prefix: tokens of a block that are given.
        segment: N; blocks are whole segments, the fewest that hold a prompt.
        blocks: those that are continued, as ``--prompt-blocks`` names them; None for all.
    """

    def __init__(self, text: Text, prefix: int, segment: int, pad: int, blocks: Optional[str] = None) -> None:
        self.text, self.prefix, self.pad = text, prefix, pad
        self.segments = -(-prefix // segment)
        self.block = self.segments * segment
        total = -(-text.total // self.block)
        self.chosen = block_range(blocks, total)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        number = self.chosen[index]
        begin = number * self.block
        return {"id": number, "block": self.text.span(begin, min(begin + self.block, self.text.total))}

    def num_tokens(self, index: int) -> int:
        return self.block

    size = num_tokens

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """``target`` [B, n], the blocks; ``src_tokens`` [B, P] and ``src_lengths`` [B], their prompts."""
        if not samples:
            return {}
        target = data_utils.collate_tokens([sample["block"] for sample in samples], self.pad)
        lengths = torch.tensor([min(len(sample["block"]), self.prefix) for sample in samples])
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "net_input": {"src_tokens": target[:, : self.prefix], "src_lengths": lengths},
            "target": target,
        }


def block_range(blocks: Optional[str], total: int) -> range:
    """Which of ``total`` blocks ``--prompt-blocks FIRST:END`` names; None names all."""
    if blocks is None:
        return range(total)
    first, colon, end = blocks.partition(":")
    if not first.isdigit() or (colon and not end.isdigit()):
        raise UsageError(f"--prompt-blocks {blocks} is no range of blocks: write it as e.g. 300:310, or 300 for one")
    chosen = range(int(first), int(end) if colon else int(first) + 1)
    if not chosen or chosen[-1] >= total:
        raise UsageError(f"--prompt-blocks {blocks} is not within the split, which has {total} blocks: choose fewer")
    return chosen


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
            self.reached[decoder] = (0, decoder.open(1).state)
        number, state = self.reached[decoder]
        assert number <= segment, "a history is read forwards"
        device = next(decoder.parameters()).device
        while number < segment:
            opened = decoder.open(1, state)
            for _ in decoder.decode_tokens(self.source(number).to(device).unsqueeze(0), opened):
                pass
            opened.close(decoder.memory)
            number, state = number + 1, opened.state
        self.reached[decoder] = number, state
        return state

    def source(self, segment: int) -> Tensor:
        """What a model reads in a segment: its text, one token earlier."""
        begin = segment * self.segment
        return torch.cat([self.start(begin), self.text.span(begin, begin + self.segment - 1)])

    def start(self, begin: int) -> Tensor:
        """The token before token ``begin`` of the text, [1]."""
        return self.text.span(begin - 1, begin) if begin > 0 else torch.tensor([self.eos])


class HistoricBatches:
    """Batches of blocks, each with the history that it continues; stands for fairseq's epoch iterator.

    The history is handed on in the main process: workers that collate batches would each read a text of their own.
    """

    def __init__(self, batches: iterators.EpochBatchIterator, history: History, segments: int) -> None:
        self.batches, self.history, self.segments = batches, history, segments

    def next_epoch_itr(self, shuffle: bool = False, **unused: Any) -> iterators.CountingIterator:
        """The batches, in the order of the text."""
        batches = self.batches.next_epoch_itr(shuffle=False)
        return iterators.CountingIterator(self.attach(batches), start=0, total=len(batches))

    def attach(self, batches: Any) -> Iterator[Dict[str, Any]]:
        """Each batch with ``history``, and ``first_segment`` [B] of its blocks."""
        for batch in batches:
            if batch:
                batch = {**batch, "history": self.history, "first_segment": batch["id"] * self.segments}
            yield batch


def continue_texts(
    generator: PromptedGenerator,
    models: Sequence[Any],
    sample: Dict[str, Any],
    dictionary: Dictionary,
) -> List[List[Dict[str, Tensor]]]:
    """What fairseq's ``inference_step`` returns: per row of ``sample`` its hypotheses, best first."""
    net_input = sample["net_input"]
    if "segment" in net_input:
        raise UsageError(
            "fairseq-generate has no prompts: give --prefix-size P, the tokens of each block that are continued"
        )
    tokens, lengths = net_input["src_tokens"], net_input["src_lengths"]
    if int(lengths.min()) == 0:
        raise UsageError("a prompt is empty, and there is nothing to continue: give at least one token")
    start = torch.full_like(lengths, dictionary.eos())
    if "history" not in sample:
        return generator.write(Prompts(tokens, lengths, start))
    history, segments = sample["history"], sample["first_segment"].tolist()
    start = torch.cat([history.start(segment * history.segment) for segment in segments]).to(lengths)
    states = [[history.before(model.decoder, segment) for model in models] for segment in segments]
    found: List[List[Dict[str, Tensor]]] = [[] for _ in segments]
    for rows in alike(states):
        before = [join([states[row][number] for row in rows]) for number in range(len(models))]
        for row, texts in zip(rows, generator.write(Prompts(tokens[rows], lengths[rows], start[rows], before))):
            found[row] = texts
    return found


def alike(states: List[List[MemoryState]]) -> List[List[int]]:
    """Numbers of the rows whose states have equal shapes: near a text's beginning memories are still filling."""

    def shapes(state: MemoryState) -> Any:
        kept = (state.documents is None, state.last is None)  # before the first token nothing was read
        return state.length, state.last_written, kept, tuple(tensor.shape for tensor in state.tensors.values())

    groups: Dict[Any, List[int]] = {}
    for row, each in enumerate(states):
        groups.setdefault(tuple(map(shapes, each)), []).append(row)
    return list(groups.values())


def join(states: List[MemoryState]) -> MemoryState:
    """One state of B streams from B states of one stream each."""
    first = states[0]

    def together(tensors: Sequence[Optional[Tensor]]) -> Optional[Tensor]:
        found = [tensor for tensor in tensors if tensor is not None]
        assert len(found) in (0, len(tensors)), "states that are not alike"
        return torch.cat(found) if found else None

    return replace(
        first,
        tensors={name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors},
        documents=together([state.documents for state in states]),
        last=together([state.last for state in states]),
    )


def warn_of_other_segments(tokens: int, task_cfg: Any) -> None:
    """Says when ``--tokens-per-sample`` is not the one of a checkpoint's task: the model knows no such segments."""
    trained = task_cfg["tokens_per_sample"]
    if tokens != trained:
        logger.warning(
            "--tokens-per-sample %d, but the model was trained with %d: its memory is refreshed at other places",
            tokens,
            trained,
        )


def encode_lines(lines: Sequence[str], encode: Callable[[str], str], dictionary: Dictionary) -> List[Tensor]:
    """Tokens [n] of each prompt."""
    return [encode_text(line, encode, dictionary, f"prompt {number + 1}") for number, line in enumerate(lines)]


def encode_text(text: str, encode: Callable[[str], str], dictionary: Dictionary, name: str) -> Tensor:
    """Tokens [n] int64 of a text that goes on: ``</s>`` where a line ends, none at the text's end.

    Raises ``UsageError``, which calls the text by ``name``, where it is empty or no text of this dictionary.
    """
    # What is not UTF-8 arrives from standard input as half of a surrogate pair.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{name} is not UTF-8: convert it, for instance with iconv -f latin1 -t utf-8")
    if not text:
        raise UsageError(f"{name} is empty, and there is nothing to continue: give some text")
    tokens: List[int] = []
    for number, line in enumerate(text.split("\n")):
        tokens += [dictionary.eos()] if number > 0 else []
        symbols = encode(line).split()
        unknown = [one for one in symbols if dictionary.index(one) == dictionary.unk() and one != dictionary.unk_word]
        if unknown:
            shown = " ".join(dict.fromkeys(unknown[:5]))
            raise UsageError(
                f"{name} has symbols that the dictionary lacks: {shown} (write it as the training text was: "
                "--tokenizer, --bpe, for characters --bpe text_characters; or write <unk>)"
            )
        tokens += [dictionary.index(one) for one in symbols]
    if not tokens:
        raise UsageError(f"{name} is empty, and there is nothing to continue: give some text")
    return torch.tensor(tokens)
