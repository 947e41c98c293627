"""What would run on a GPU, without one: every kind on fake CUDA tensors, devices, types and host waits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
from commands import ROOT
from family import KINDS

from lamemo_fairseq.benchmark import fake_cuda
from lamemo_fairseq.core.compiled import cpp_compiler

needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="fake CUDA tensors need a C++ compiler")
UPDATES, REORDERS = 4, 4  # of walk.py


def run_on_fake_cuda(*words: str) -> Any:
    """The JSON that a program prints last, in a process with fake CUDA."""
    environment = fake_cuda.environment()
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_compiler
@pytest.mark.slow  # builds and walks every kind, half a minute per type
@pytest.mark.parametrize("number", ["float32", "float16", "bfloat16", "autocast"])
def test_every_kind_runs_on_fake_cuda(number: str) -> None:
    """No tensor of another device or type is met, and the host waits where it is known to, and nowhere else."""
    found: Dict[str, Any] = run_on_fake_cuda(str(Path(__file__).with_name("walk.py")), number)
    assert sorted(found) == sorted(KINDS)
    for kind, parts in found.items():
        # Of an adaptive softmax, the targets of each of two clusters are picked out.
        clusters = 2 if "adaptive_softmax_cutoff" in KINDS[kind] else 0
        for part in ("train", "documents"):
            waits = sum(count for where, count in parts[part]["waits"].items())
            assert waits <= UPDATES * (1 + clusters), (kind, part, parts[part])
        assert sum(parts["decode"]["waits"].values()) <= REORDERS, (kind, parts["decode"])


@needs_compiler
@pytest.mark.slow  # compiles, and imports torch in a process of its own
def test_a_tensor_on_the_wrong_device_is_found_and_waits_are_placed() -> None:
    """The harness can fail: devices that meet raise, and each wait is told with its line."""
    program = """
import json, torch
from lamemo_fairseq.benchmark.count import Counting
from lamemo_fairseq.benchmark.fake_cuda import fake_cuda
with fake_cuda():
    on_device, on_host = torch.ones(3, device="cuda"), torch.ones(3)
    try:
        on_device + on_host
        raise SystemExit("CPU and CUDA tensors were added")
    except RuntimeError:
        pass
    with Counting() as counting:
        float(on_device.sum()), on_device.cpu(), on_host.to("cuda"), on_device.nonzero()
    with Counting() as writing:
        torch.add(on_device, 1, out=torch.empty_like(on_device)), on_device.clone().copy_(on_device)
        torch.zeros_like(on_device), on_device.new_zeros(3), on_device.add_(1)
counts = counting.counts
waits, copies = sum(counts.waits.values()), sum(counts.copies.values())
print(json.dumps([waits, copies, counts.launched, counts.bytes, writing.counts.bytes]))
"""
    path = Path(fake_cuda.library()).with_suffix(".py")
    path.write_text(program)
    waits, copies, kernels, bytes_moved, written = run_on_fake_cuda(str(path))
    # sum, to the host, to the device, nonzero; each of 3 floats reads or writes 12 bytes, nonzero 1 row of 8.
    assert (waits, copies, kernels) == (3, 1, 4)
    assert bytes_moved == (12 + 4) + (12 + 12) + (12 + 12) + (12 + 8)
    # What is only written is not read: add to another, clone, copy and add in place 24 each, zeros 12 each.
    assert written == 4 * 24 + 2 * 12
