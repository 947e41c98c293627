"""Training with compiled layers (``--compile``): the numbers of eager ones, one graph per memory length, no breaks."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch
from family import KINDS, SEGMENT, make, text
from torch import Tensor
from torch._dynamo.utils import counters

from lamemo_fairseq.core import compiled
from lamemo_fairseq.core.errors import UsageError
from lamemo_fairseq.core.memory import LayerMemory, RecurrenceMemory
from lamemo_fairseq.data.memory_store import MemoryStore

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SMALL: Dict[str, Any] = {"decoder_layers": 2, "mem_len": SEGMENT}
OTHERS: List[Dict[str, Any]] = [
    {"checkpoint_activations": True},
    {"no_fused_kernels": True},
    {"same_length": True, "clamp_len": 3},
]
needs_compiler = pytest.mark.skipif(compiled.cpp_compiler() is None, reason="compiled layers need a C++ compiler")


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Counts begin at zero, and no graph of another test is left."""
    torch._dynamo.reset()
    compiled.compiled.cache_clear()
    counters.clear()


def train(decoder: Any, segments: int, documents: bool = False) -> Tuple[Dict[str, Tensor], int, int]:
    """Losses, gradients and the state after ``segments``; graphs made until the memory was full, and after that."""
    store, found, lengths = MemoryStore("test"), {}, []
    tokens = text(2, segments * SEGMENT + 1)
    graphs = [0]
    torch.manual_seed(1)
    decoder.train()
    for k in range(segments):
        piece, targets = (tokens[:, k * SEGMENT + shift :][:, :SEGMENT] for shift in (0, 1))
        numbers = torch.arange(k * SEGMENT, (k + 1) * SEGMENT).div(3, rounding_mode="floor").expand(2, -1)
        given = {"documents": numbers} if documents else {}
        log_probs, extra = decoder(piece, store=store, segment=k, targets=targets, **given)
        loss: Any = -log_probs.sum() + sum(extra["losses"].values())
        loss.backward()
        found[f"loss {k}"] = loss.detach()
        state = store.committed[decoder].state
        lengths.append((state.length, state.last_written, {name: t.shape for name, t in state.tensors.items()}))
        graphs.append(counters["stats"]["unique_graphs"])
    # The segment that first leaves the state as large as it found it is the first one behind a full memory.
    full = next(k for k in range(1, segments) if lengths[k] == lengths[k - 1])
    assert full < segments - 1, "the memory was full too late to see anything"
    found.update({f"gradient {name}": p.grad for name, p in decoder.named_parameters() if p.grad is not None})
    found.update({f"state {name}": tensor for name, tensor in state.tensors.items()})
    return found, graphs[full + 1], graphs[-1] - graphs[full + 1]


def assert_equal(kind: str, segments: int, graphs: int, documents: bool = False, **flags: Any) -> None:
    """Compiled and eager training agree, with ``graphs`` graphs at most, none behind a full memory, and no breaks."""
    eager, _, _ = train(make(kind, **{**SMALL, **flags}), segments, documents)
    found, growing, after = train(make(kind, compile=True, **{**SMALL, **flags}), segments, documents)
    assert 1 <= growing <= graphs and after == 0, (growing, after)
    assert not counters["graph_break"], counters["graph_break"]
    assert found.keys() == eager.keys()
    for name, tensor in eager.items():
        torch.testing.assert_close(found[name], tensor, **EXACT, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.slow  # traces three graphs per kind, some ten seconds
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_traced_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operation by operation, so that no machine code is made: what can go wrong here differs from kind to kind."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    # A rate that divides the segment: with others the memory's length goes through a cycle.
    rate = {"compression_rate": 2} if "compression_rate" in KINDS[kind] else {}
    # No memory, a plain one, and for two of the kinds a long-term one that fills later.
    assert_equal(kind, segments=7, graphs=5, **rate)


@pytest.mark.slow  # as above
@pytest.mark.parametrize(
    "flags",
    [{"checkpoint_activations": True}, {"no_fused_kernels": True}, {"same_length": True, "clamp_len": 3}],
    ids=str,
)
def test_other_flags_are_traced_whole(flags: Dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    assert_equal("lookahead", segments=4, graphs=2, **flags)


@pytest.mark.slow  # as above
def test_documents_are_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    assert_equal("lookahead", segments=4, graphs=2, documents=True)


@needs_compiler
@pytest.mark.slow  # makes machine code, a minute or more
@pytest.mark.parametrize("kind", ["lookahead", "recurrence"])
def test_machine_code_gives_the_same_numbers(kind: str) -> None:
    """What dropout drops included: on a CPU the random numbers are those of eager layers."""
    assert_equal(kind, segments=4, graphs=2, dropout=0.1, attention_dropout=0.1)


@needs_compiler
@pytest.mark.slow  # makes machine code, a minute or more
def test_machine_code_with_checkpointed_activations() -> None:
    assert_equal("lookahead", segments=4, graphs=2, checkpoint_activations=True, dropout=0.1)


@pytest.mark.slow  # as above
@pytest.mark.parametrize("checkpointed", [False, True])
def test_inside_of_distributed_data_parallel(
    checkpointed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Torch's own, which fairseq takes on GPUs and cannot on a CPU; one process, and buckets of a few weights."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        gradients = []
        for flags in ({}, {"compile": True}):
            decoder = make("lookahead", checkpoint_activations=checkpointed, **SMALL, **flags).train()
            parallel = torch.nn.parallel.DistributedDataParallel(decoder, bucket_cap_mb=0.001)
            parallel(text(2, SEGMENT))[0].pow(2).sum().backward()
            gradients.append({name: p.grad for name, p in decoder.named_parameters() if p.grad is not None})
    finally:
        torch.distributed.destroy_process_group()
    assert gradients[0].keys() == gradients[1].keys() and counters["stats"]["unique_graphs"] == 1
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **EXACT)


def test_what_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation, decoding, and segments of another length: they would compile for shapes that are used once."""

    def refuse(*given: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("lamemo_fairseq.core.network.run_compiled", refuse)
    decoder = make("lookahead", compile=True)
    decoder(text(2, SEGMENT))
    decoder(text(2, 3), incremental_state={})
    decoder.train()(text(2, SEGMENT - 1))
    with pytest.raises(AssertionError, match="compiled"):
        decoder(text(2, SEGMENT))


def test_the_model_is_the_same() -> None:
    """A flag of how it is computed: weights have the names that they had, and a copy is a model of its own."""
    plain, decoder = make("lookahead"), make("lookahead", compile=True)
    assert plain.state_dict().keys() == decoder.state_dict().keys()
    twin = copy.deepcopy(decoder)
    assert twin.compiles and twin.layers is not decoder.layers


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "nonesuch")
    with pytest.raises(UsageError, match="--compile needs a C[+][+] compiler, and none is found: install g[+][+], "):
        make("lookahead", compile=True).train()(text(2, SEGMENT))


def test_a_torch_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "compile")
    with pytest.raises(UsageError, match="--compile needs a newer torch than"):
        make("lookahead", compile=True).train()(text(2, SEGMENT))


class Talking(RecurrenceMemory):
    """A kind that asks a tensor for a number while it is read, which no graph can."""

    def recall(self, state: Any, layer: int, memory_hidden: Tensor) -> LayerMemory:
        found = super().recall(state, layer, memory_hidden)
        return replace(found) if found.hidden_states.sum().item() < 1e9 else found


@needs_compiler
def test_a_kind_that_cannot_be_compiled_is_told() -> None:
    decoder = make("recurrence", compile=True, decoder_layers=1)
    decoder.memory.__class__ = Talking
    with pytest.raises(UsageError, match=r"^--compile cannot compile this model \([^\n]+\): leave it out$"):
        decoder.train()(text(2, SEGMENT))
