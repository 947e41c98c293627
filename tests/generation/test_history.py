"""Generation behind the memory of what came before: of a split's text, block by block."""

import pytest
import torch
from family import SEGMENT, dictionary, pieces, text
from test_search import generator, model, scores_of
from torch import Tensor

from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import MemoryState
from lamemo_fairseq.data.memory_store import MemoryStore
from lamemo_fairseq.generation.history import History, continue_prompts
from lamemo_fairseq.generation.prompts import PromptBlocks, block_range
from lamemo_fairseq.plugin.model import LaMemoLanguageModel

EOS, BOS, PAD, UNK = 2, 0, 1, 3


def state_before(one: LaMemoLanguageModel, source: Tensor, segment: int) -> MemoryState:
    store = MemoryStore("test")
    for number, piece in enumerate(pieces(source)[:segment]):
        one.decoder(piece, store=store, segment=number)
    return store.committed[one.decoder].state if segment else one.decoder.memory.empty(1, source.new_zeros(1).double())


class Whole:
    """A text of one piece."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens, self.total = tokens, len(tokens)

    def span(self, start: int, end: int) -> Tensor:
        return self.tokens[start:end]


@pytest.mark.parametrize("kind", ["lookahead", "compressive", "none"])
@torch.no_grad()
def test_history_is_the_memory_of_all_text_before(kind: str) -> None:
    one, tokens = model(kind), text(1, 7 * SEGMENT)[0]
    source = torch.cat([torch.tensor([EOS]), tokens[:-1]]).unsqueeze(0)
    history = History(Whole(tokens), SEGMENT, EOS)
    for segment in (0, 2, 3, 6):
        got, expected = history.before(one.decoder, segment), state_before(one, source, segment)
        assert (got.length, got.last_written) == (expected.length, expected.last_written)
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(got.tensors[name], tensor, rtol=0, atol=1e-10)


@torch.no_grad()
def test_carried_memory_continues_the_whole_text() -> None:
    """Blocks whose memories are still filling and full ones, in one batch: scores of the text read from its start."""
    one, tokens, prefix = model(), text(1, 6 * SEGMENT)[0], SEGMENT - 1
    blocks = PromptBlocks(Whole(tokens), prefix, SEGMENT, PAD)
    batch = blocks.collater([blocks[number] for number in range(6)])
    history = History(Whole(tokens), SEGMENT, EOS)
    sample = {**batch, "history": history, "first_segment": batch["id"] * blocks.segments}
    found = continue_prompts(generator(one), [one], sample, dictionary())
    for number, hypotheses in enumerate(found):
        begin = number * SEGMENT
        whole = [*tokens[:begin].tolist(), *hypotheses[0]["tokens"].tolist()]
        assert whole[: begin + prefix] == tokens[: begin + prefix].tolist()
        expected = scores_of(one, whole)[begin:]
        torch.testing.assert_close(hypotheses[0]["positional_scores"].double(), expected, rtol=0, atol=1e-4)


def test_blocks_of_a_split() -> None:
    tokens = text(1, 30)[0]
    blocks = PromptBlocks(Whole(tokens), prefix=6, segment=4, pad=PAD)
    assert blocks.block == 8 and len(blocks) == 4
    batch = blocks.collater([blocks[number] for number in range(4)])
    assert batch["id"].tolist() == [0, 1, 2, 3]
    assert torch.equal(torch.cat([row[row != PAD] for row in batch["target"]]), tokens)
    assert torch.equal(batch["net_input"]["src_tokens"], batch["target"][:, :6])
    assert batch["net_input"]["src_lengths"].tolist() == [6, 6, 6, 6]
    assert list(block_range("1:3", 4)) == [1, 2] and list(block_range("3", 4)) == [3]
    for wrong in ("a", "2:x", "3:3", "4", "0:5"):
        with pytest.raises(UsageError, match=f"--prompt-blocks {wrong}"):
            block_range(wrong, 4)
