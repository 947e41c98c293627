"""Layers as compiled code (``--compile``): torch.compile traces all of them as one graph and fuses its operations.

A graph belongs to one shape. The memory grows in the first segments of a text, so each of its lengths gets a graph, and
once it is full no further one is made. Only training is compiled, and of it only segments of the full length: an
evaluation and the last, shorter segment of an epoch would each pay for a graph that they use a few times.

Slow reference: the same layers uncompiled, compared in ``tests/core/test_compiled.py``.
"""

import inspect
import os
import shutil
from functools import cache
from typing import Any, Callable, Optional

import torch

from .errors import UsageError

# Shapes that one function may be compiled for: more than a memory has lengths. Torch's own limit is 8.
GRAPHS = 1024
BACKEND = "inductor"


def cpp_compiler() -> Optional[str]:
    """The C++ compiler, or None without one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def is_compiling() -> bool:
    """Whether the code that asks is being traced, by a torch that can."""
    return hasattr(torch, "compiler") and torch.compiler.is_compiling()


def check(device: torch.device) -> None:
    """Raises ``UsageError`` where nothing can be compiled for ``device``."""
    if "recompile_limit" not in inspect.signature(getattr(torch, "compile", check)).parameters:
        raise UsageError(f"--compile needs a newer torch than {torch.__version__}, e.g. 2.13: leave it out")
    if cpp_compiler() is None:
        raise UsageError(
            "--compile needs a C++ compiler, and none is found: install g++, name one in the variable CXX, or leave "
            "it out"
        )
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UsageError("--compile needs the package triton on a GPU: install it, or leave --compile out")


@cache
def compiled(function: Callable[..., Any], device: torch.device, backend: str) -> Callable[..., Any]:
    """``function``, compiled once for each shape on ``device``; graph breaks are errors."""
    check(device)
    # Random numbers that inductor makes for dropout cost a CPU more than torch's own do; on a GPU they save a kernel.
    options = {"fallback_random": True} if backend == "inductor" and device.type == "cpu" else None
    compile_function: Any = torch.compile  # whose newer arguments are not in its types
    return compile_function(
        function, fullgraph=True, dynamic=False, backend=backend, options=options, recompile_limit=GRAPHS
    )


def run_compiled(function: Callable[..., Any], device: torch.device, *arguments: Any) -> Any:
    """The result of ``function`` for ``arguments``, by compiled code; ``UsageError`` where it cannot be made."""
    call = compiled(function, device, BACKEND)
    # These load the compiler, which nobody else needs.
    import torch._dynamo.config as settings
    from torch._dynamo.exc import TorchDynamoException

    try:
        # Inside of DistributedDataParallel torch would cut the graph at its buckets, which fails where activations are
        # checkpointed.
        with settings.patch(optimize_ddp=False):  # type: ignore[attr-defined]
            return call(*arguments)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--compile cannot compile this model ({reason}): leave it out") from error
