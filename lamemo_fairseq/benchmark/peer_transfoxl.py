"""Training steps of Hugging Face's TransfoXL, as a process of its own: ``peers.py`` starts it with another Python.

It needs torch and transformers and nothing of this package. Its argument is sizes, as JSON. Its first line says how
many parameters and which version there is; then it answers each line of its input, a number of steps, with a line of
JSON, ``{"seconds": [...], "cpu_seconds": [...]}``.
"""

import json
import sys
import time
from typing import Any, Dict, List

import torch
from torch import nn
from transformers import TransfoXLConfig, TransfoXLLMHeadModel, __version__


def model_of(sizes: Dict[str, Any]) -> nn.Module:
    """Transformer-XL with one softmax over all words, tied to the embeddings, and vectors that all layers share."""
    config = TransfoXLConfig(
        vocab_size=sizes["words"],
        cutoffs=[],
        div_val=1,
        d_model=sizes["width"],
        d_embed=sizes["width"],
        n_head=sizes["heads"],
        d_head=sizes["width"] // sizes["heads"],
        d_inner=sizes["ffn"],
        n_layer=sizes["layers"],
        mem_len=sizes["memory"],
        clamp_len=-1,
        same_length=False,
        untie_r=False,
        dropout=sizes["dropout"],
        dropatt=0.0,
    )
    return TransfoXLLMHeadModel(config).train()


class Training:
    """Steps behind a full memory: forward, loss, backward, clipping, Adam."""

    def __init__(self, sizes: Dict[str, Any]) -> None:
        self.sizes, self.model, self.memory = sizes, model_of(sizes), None
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.steps(-(-sizes["memory"] // sizes["segment"]) + 1)

    def steps(self, count: int) -> Dict[str, List[float]]:
        """Seconds of ``count`` steps, on the wall's clock and of all threads."""
        times: Dict[str, List[float]] = {"seconds": [], "cpu_seconds": []}
        shape = (self.sizes["streams"], self.sizes["segment"])
        for _ in range(count):
            tokens = torch.randint(4, self.sizes["words"], shape)
            began, worked = time.perf_counter(), time.process_time()
            out = self.model(tokens, mems=self.memory, labels=tokens)
            self.memory = out.mems
            out.loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
            self.optimizer.step()
            self.optimizer.zero_grad()
            times["seconds"].append(time.perf_counter() - began)
            times["cpu_seconds"].append(time.process_time() - worked)
        return times


def main() -> None:
    """Answers until the input ends."""
    sizes = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(sizes["threads"])
    training = Training(sizes)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    print(json.dumps({"parameters": parameters, "version": __version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(training.steps(int(line))), flush=True)


if __name__ == "__main__":
    main()
