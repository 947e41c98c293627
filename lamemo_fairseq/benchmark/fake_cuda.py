"""CUDA tensors without data on a machine without a GPU: what a program would do there, checked and counted.

Torch asks for its CUDA backend once, while it is imported. So ``fake_cuda.cpp``, which answers for one, is loaded
before it: a program that wants fake CUDA tensors runs in a process of its own with :func:`environment`.
"""

import hashlib
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.cpp_extension import include_paths

from ..core.compiled import cpp_compiler
from ..core.errors import UsageError

SOURCE = Path(__file__).with_suffix(".cpp")


def library() -> Path:
    """The compiled ``fake_cuda.cpp``, made once per version of it and of torch."""
    program = cpp_compiler()
    if program is None:
        raise UsageError("no C++ compiler is found, which fake CUDA tensors need: install g++, or name one in CXX")
    made_of = SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()
    name = f"lamemo-fake-cuda-{os.getuid()}-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    path = Path(tempfile.gettempdir()) / name
    if not path.exists():
        torch_libraries = Path(torch.__file__).parent / "lib"
        flags = ["-O1", "-std=c++20", "-shared", "-fPIC", *(f"-I{folder}" for folder in include_paths())]
        flags += [f"-L{torch_libraries}", f"-Wl,-rpath,{torch_libraries}", "-ltorch_cpu", "-lc10"]
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".so", delete=False) as file:
            subprocess.run([program, str(SOURCE), *flags, "-o", file.name], check=True)
        os.replace(file.name, path)  # at once, whoever else makes it at the same time
    return path


def environment() -> Dict[str, str]:
    """The variables of a process that can hold fake CUDA tensors."""
    before = os.environ.get("LD_PRELOAD")
    preload = str(library()) if not before else f"{library()}:{before}"
    return {**os.environ, "LD_PRELOAD": preload, "CUDA_VISIBLE_DEVICES": ""}


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Tensors that are made within have no data, and may be on ``cuda``; CPU and CUDA tensors never meet unnoticed."""
    if str(library()) not in os.environ.get("LD_PRELOAD", ""):
        raise UsageError("fake CUDA tensors need a process with the variables that fake_cuda.environment() gives")
    # Torch asks the driver for these two, and there is none. Both hold on every card that the project names.
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def made_on_cuda(dtype: torch.dtype) -> Iterator[None]:
    """Modules that are built within have their parameters on ``cuda`` and of this type; fake ones cannot be moved."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            yield
    finally:
        torch.set_default_dtype(before)
