"""Walks every kind through training, decoding and what surrounds them, on fake CUDA tensors; prints counts as JSON.

python walk.py TYPE        with fake_cuda.environment(); TYPE is float32, float16, bfloat16 or autocast
"""

import contextlib
import json
import sys
from typing import Any, Dict

import torch
from family import KINDS, SEGMENT, SIZES, WORDS, dictionary

from lamemo_fairseq.benchmark.count import Counting
from lamemo_fairseq.benchmark.fake_cuda import fake_cuda, made_on_cuda
from lamemo_fairseq.data.memory_store import attach
from lamemo_fairseq.plugin.config import LaMemoConfig
from lamemo_fairseq.plugin.criterion import MemoryCrossEntropyCriterion
from lamemo_fairseq.plugin.decoder import LaMemoDecoder
from lamemo_fairseq.plugin.model import LaMemoLanguageModel
from lamemo_fairseq.training import metrics
from lamemo_fairseq.training.train_step import TrainingMemory


class Task:
    """What the criterion asks of a task."""

    target_dictionary = dictionary()


def train(model: Any, documents: bool) -> None:
    """Four segments, each an update: forward, criterion, backward, commit, monitor."""
    store = TrainingMemory("train")
    criterion = MemoryCrossEntropyCriterion(Task(), False)
    for segment in range(4):
        tokens = torch.randint(4, WORDS, (2, SEGMENT), device="cuda")
        net_input: Dict[str, Any] = {"prev_output_tokens": tokens, "segment": segment}
        if documents:
            net_input["documents"] = torch.zeros(2, SEGMENT, dtype=torch.long, device="cuda")
        sample = attach({"net_input": net_input, "target": tokens, "ntokens": tokens.numel()}, store)
        store.begin()
        loss, _, _ = criterion(model.decoder, sample)
        loss.backward()
        store.commit()
        observed = metrics.observe(store, loss.device)
        assert all(t.device.type == "cuda" for t in observed.values() if isinstance(t, torch.Tensor))


@torch.no_grad()
def decode(model: Any) -> None:
    """A prompt and single tokens, over two ends of segments, with the streams in another order in between."""
    state: Dict[str, Any] = {}
    tokens = torch.randint(4, WORDS, (2, 2), device="cuda")
    for step in range(2 * SEGMENT + 3):
        scores, _ = model.decoder(tokens, incremental_state=state)
        assert scores.device.type == "cuda"
        if step % 3 == 1:
            model.decoder.reorder_incremental_state(state, torch.tensor([1, 0], device="cuda"))
        tokens = torch.cat([tokens, tokens[:, :1]], dim=1)


def walk(kind: str, kind_of_number: str) -> Dict[str, Any]:
    """One kind."""
    autocast = kind_of_number == "autocast"
    dtype = torch.float32 if autocast else getattr(torch, kind_of_number)
    sizes = {**SIZES, "dropout": 0.1, "attention_dropout": 0.1}
    cfg = LaMemoConfig(**{**sizes, **KINDS[kind]})
    cfg.check()
    with made_on_cuda(dtype):
        model = LaMemoLanguageModel(LaMemoDecoder(cfg, dictionary(), SEGMENT))
    mixed = torch.autocast("cuda", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    found: Dict[str, Any] = {}
    with mixed:
        for name, part in {
            "train": lambda: train(model.train(), documents=False),
            "documents": lambda: train(model.train(), documents=model.decoder.memory.separates_documents),
            "decode": lambda: decode(model.eval()),
        }.items():
            with Counting() as counting:
                part()
            found[name] = {"waits": dict(counting.counts.waits), "copies": dict(counting.counts.copies)}
    wrong = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.dtype != dtype]
    assert not wrong, wrong
    return found


if __name__ == "__main__":
    with fake_cuda():
        result = {kind: walk(kind, sys.argv[1]) for kind in KINDS}
    print(json.dumps(result))
