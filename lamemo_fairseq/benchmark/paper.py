"""What the paper's sizes cost on a GPU, counted on fake CUDA tensors: no GPU is needed, and no clock is read.

One process counts one (preset, kind, type) and prints it as JSON: ``python -m lamemo_fairseq.benchmark.paper``. It must
be started with :func:`fake_cuda.environment`, which :func:`count` does.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..core.errors import UsageError
from ..core.memory import KINDS
from ..data.memory_store import MemoryStore
from ..plugin.config import LaMemoConfig
from ..plugin.decoder import LaMemoDecoder
from ..plugin.presets import PRESETS, SIZES
from .count import GIB, Counting, size
from .fake_cuda import environment, fake_cuda, made_on_cuda

# Rates that an H100 (SXM) reaches in practice: products of bf16, and reading or writing its memory.
FLOPS_PER_SECOND, BYTES_PER_SECOND = 700e12, 3.0e12


@dataclass(frozen=True)
class Setting:
    """Sizes of a preset's run: B ``streams``, N ``tokens``, V ``words``, full softmax."""

    streams: int
    tokens: int
    words: int


SETTINGS: Dict[str, Setting] = {
    name: Setting(preset.training.batch_size, preset.training.tokens_per_sample, SIZES[preset.size].vocabulary)
    for name, preset in PRESETS.items()
}
# Products that are added in place, which torch's own count leaves out.
IN_PLACE = {
    torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm],
    torch.ops.aten.baddbmm_: flop_registry[torch.ops.aten.baddbmm],
}
#: the paper's sizes, which the table is about; text8's is that of enwik8 but for its symbols
COUNTED = ("lamemo_lm_enwik8_base", "lamemo_lm_wt103_base")


class Symbols(Dictionary):
    """A dictionary of V symbols without their spelling."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = words

    def __len__(self) -> int:
        return self.words


def decoder_of(preset: str, kind: str, dtype: str, **flags: Any) -> LaMemoDecoder:
    """A model of a preset's size on fake CUDA."""
    setting = SETTINGS[preset]
    cfg = LaMemoConfig(**{**PRESETS[preset].model, "memory_type": kind, **flags})
    cfg.check()
    with made_on_cuda(getattr(torch, dtype)):
        return LaMemoDecoder(cfg, Symbols(setting.words), setting.tokens)


class Training:
    """Training steps of a model, segment after segment; the memory is full from the start of what is counted.

    Args:
        decoder: the model.
        setting: the sizes.
    """

    def __init__(self, decoder: LaMemoDecoder, setting: Setting) -> None:
        self.decoder, self.setting, self.store, self.segment = decoder.train(), setting, MemoryStore("train"), 0
        for _ in range(-(-decoder.memory.span // setting.tokens) + 1):
            self.step()

    def step(self) -> None:
        """Forward, loss and backward of the next segment."""
        shape = (self.setting.streams, self.setting.tokens)
        device = next(self.decoder.layers.parameters()).device
        tokens, targets = (torch.randint(4, self.setting.words, shape, device=device) for _ in range(2))
        self.decoder.zero_grad()
        log_probs, extra = self.decoder(tokens, store=self.store, segment=self.segment, targets=targets)
        loss = -log_probs.sum()
        for auxiliary in extra.get("losses", {}).values():
            loss = loss + auxiliary
        loss.backward()
        self.segment += 1


def counting_products() -> FlopCounterMode:
    """Torch's count of operations, with those products too that are added in place."""
    flops = FlopCounterMode(display=False)
    flops.flop_registry.update(IN_PLACE)
    return flops


def count_step(decoder: LaMemoDecoder, setting: Setting) -> Dict[str, float]:
    """What one step behind a full memory does: forward, loss and backward, no optimizer."""
    training = Training(decoder, setting)
    kernels_of_layer: List[int] = []
    with counting_products() as flops, Counting() as counting:
        layer = decoder.layers[len(decoder.layers) // 2]
        hooks = [
            layer.register_forward_pre_hook(lambda *call: kernels_of_layer.append(-counting.counts.launched)),
            layer.register_forward_hook(lambda *call: kernels_of_layer.append(counting.counts.launched)),
        ]
        training.step()
        for hook in hooks:
            hook.remove()
    counts = counting.counts
    return {
        "tflop": flops.get_total_flops() / 1e12,
        "bytes": counts.bytes,
        "kept": counts.kept,
        "peak": counts.peak,
        "kernels": counts.launched,
        "kernels_per_layer": sum(kernels_of_layer),
        "waits": counts.own_waits(),
        "floor_bytes": floor_of_step(decoder, setting),
        "by_operation": dict(counts.traffic.most_common(8)),  # type: ignore[dict-item]
    }


def floor_of_step(decoder: LaMemoDecoder, setting: Setting) -> int:
    """Bytes that no program can do without: weights read forward and backward and their gradients written; per layer
    the states of memory and segment read and written, and their gradients; what the memory keeps, read and written."""
    weights = sum(size(parameter) for parameter in decoder.parameters())
    like = next(decoder.layers.parameters())
    refreshed = decoder.memory.looks_ahead or decoder.memory.recomputes
    rows = setting.tokens + (decoder.memory.mem_len if refreshed else 0)
    states = setting.streams * rows * decoder.dim * like.element_size()
    return 3 * weights + 4 * len(decoder.layers) * states + 2 * decoder.memory.full_bytes(setting.streams, like)


@torch.no_grad()
def count_token(decoder: LaMemoDecoder, setting: Setting, streams: int = 1) -> Dict[str, float]:
    """What one generated token does inside of a segment, behind a full memory."""
    decoder.eval()
    segment = decoder.new_segment(streams)
    prompt = torch.randint(4, setting.words, (streams, decoder.memory.span + 2), device="cuda")

    def read(tokens: Tensor) -> None:
        for features in decoder.decode_tokens(tokens, segment):
            decoder.output_layer(features[:, -1:])

    read(prompt)
    read(prompt[:, :1])
    with Counting() as counting:
        read(prompt[:, :1])
    counts = counting.counts
    weights = sum(size(parameter) for parameter in decoder.parameters())
    return {"bytes": counts.bytes, "kernels": counts.launched, "waits": counts.own_waits(), "floor_bytes": weights}


def measure(preset: str, kind: str, dtype: str, flags: Dict[str, Any]) -> Dict[str, Any]:
    """Counts of a step and of a token."""
    setting = SETTINGS[preset]
    with fake_cuda():
        step = count_step(decoder_of(preset, kind, dtype, **flags), setting)
        token = count_token(decoder_of(preset, kind, dtype, **flags), setting)
    return {"preset": preset, "kind": kind, "dtype": dtype, "flags": flags, "step": step, "token": token}


def count(preset: str, kind: str, dtype: str = "bfloat16", **flags: Any) -> Dict[str, Any]:
    """As :func:`measure`, in a process of its own."""
    words = [sys.executable, "-m", __name__, preset, kind, dtype, json.dumps(flags)]
    done = subprocess.run(words, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise UsageError(f"counting {kind} at {preset} in {dtype} failed: see above")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


HEAD = (
    "preset|memory type|TFLOP|ms at rate|GiB moved|ms at rate|floor GiB|kept GiB|peak GiB|kernels|per layer|waits|"
    "token: kernels|MiB|floor MiB|waits"
).split("|")


def row(counted: Dict[str, Any]) -> List[str]:
    """A line of the table that :data:`HEAD` begins."""
    step, token = counted["step"], counted["token"]
    return [
        counted["preset"].replace("lamemo_lm_", ""),
        counted["kind"],
        f"{step['tflop']:.2f}",
        f"{step['tflop'] * 1e12 / FLOPS_PER_SECOND * 1e3:.1f}",
        f"{step['bytes'] / GIB:.1f}",
        f"{step['bytes'] / BYTES_PER_SECOND * 1e3:.1f}",
        f"{step['floor_bytes'] / GIB:.1f}",
        f"{step['kept'] / GIB:.2f}",
        f"{step['peak'] / GIB:.2f}",
        str(step["kernels"]),
        str(step["kernels_per_layer"]),
        str(step["waits"]),
        str(token["kernels"]),
        f"{token['bytes'] / 2**20:.0f}",
        f"{token['floor_bytes'] / 2**20:.0f}",
        str(token["waits"]),
    ]


def main(words: Optional[List[str]] = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=sorted(SETTINGS))
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("flags", type=json.loads, nargs="?", default={})
    given = parser.parse_args(words)
    print(json.dumps(measure(given.preset, given.kind, given.dtype, given.flags)))


if __name__ == "__main__":
    main()
