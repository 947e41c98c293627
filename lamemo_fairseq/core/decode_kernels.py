"""Compiled code for single-token decoding on a CPU, float32: ``decode_kernels.cpp``.

A token reads weights, keys and values once. Torch's products with a few rows do that at a third of the rate at which
memory can be read, and every call costs some microseconds beside; these functions reach it. They are compiled once per
machine, in half a second, where a C++ compiler is; elsewhere torch's operations do the same, more slowly. Slow
reference: ``FastDecodeLayer.attend``, whose torch operations they replace.
"""

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .compiled import cpp_compiler
from .kv_cache import Cache
from .user_cache import user_cache

SOURCE = Path(__file__).with_suffix(".cpp")
#: rows up to which these functions are used: with more, products are bound by arithmetic, which torch does better
ROWS = 32
# Sums may be taken in any order, which vectors need. Not -ffast-math: that would change how the whole process rounds.
FLAGS = "-O3 -march=native -fPIC -fopenmp -fassociative-math -fno-signed-zeros -fno-trapping-math -fno-math-errno"

logger = logging.getLogger(__name__)


def processor() -> bytes:
    """What tells processors apart for which code is made."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}".encode()


def compile_library(folder: Path) -> Path:
    """The shared library in ``folder``, made once per version of its source, compiler and processor.

    Raises:
        OSError, subprocess.CalledProcessError: it cannot be made.
    """
    program = cpp_compiler()
    if program is None:
        raise OSError("no C++ compiler is found")
    made_of = b"\0".join([SOURCE.read_bytes(), program.encode(), FLAGS.encode(), processor()])
    path = folder / f"decode-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made, library = f"{scratch}/made.o", f"{scratch}/made.so"
        run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([program, *FLAGS.split(), "-c", str(SOURCE), "-o", made], **run)  # type: ignore[call-overload]
        # Without -fopenmp: threads come from the OpenMP library that torch has loaded, not from a second one.
        subprocess.run([program, "-shared", made, "-o", library], **run)  # type: ignore[call-overload]
        os.replace(library, path)  # at once, whoever else makes it at the same time
    return path


@cache
def load() -> Optional[ctypes.CDLL]:
    """The compiled functions; None, said in a line of the log, where they cannot be made."""
    try:
        library = ctypes.CDLL(str(compile_library(user_cache())))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        logger.info("single tokens are decoded by torch's operations, not by compiled code, which is faster: %s", error)
        return None
    pointer, number, flag = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.lamemo_linear.argtypes = [pointer] * 5 + [number] * 3 + [flag] * 2
    library.lamemo_scores.argtypes = [pointer] * 6 + [number] * 8 + [flag]
    library.lamemo_mix.argtypes = [pointer] * 3 + [number] * 6 + [flag]
    for function in (library.lamemo_linear, library.lamemo_scores, library.lamemo_mix):
        function.restype = None
    return library


def kernels_for(x: Tensor) -> Optional[ctypes.CDLL]:
    """The compiled functions for a token's states ``x`` [B, D], or None where torch's operations are to be used."""
    real = type(x.detach()) is Tensor  # others, as fake ones, have no numbers to point to
    if not real or x.device.type != "cpu" or x.dtype != torch.float32 or x.size(0) > ROWS:
        return None
    return load()


def address(tensor: Optional[Tensor]) -> Optional[int]:
    """Where a tensor's numbers lie."""
    return None if tensor is None else tensor.data_ptr()


@dataclass(frozen=True)
class PackedLinear:
    """x W^T + b for a few rows x [n, in] -> [n, out], as ``fast_decode.TransposedLinear``.

    ``packed`` [blocks, in, columns of a block] holds W^T block by block, each of which is read from front to end.
    """

    library: ctypes.CDLL
    packed: Tensor
    bias: Optional[Tensor]
    out: int

    @staticmethod
    def of(library: ctypes.CDLL, weight: Tensor, bias: Optional[Tensor]) -> "PackedLinear":
        """The layer of ``weight`` [out, in]."""
        weight, columns, out = weight.detach(), library.lamemo_block(), weight.size(0)
        padded = F.pad(weight, (0, 0, 0, -out % columns))
        packed = padded.unflatten(0, (-1, columns)).mT.contiguous()
        return PackedLinear(library, packed, None if bias is None else bias.detach().contiguous(), out)

    def __call__(self, x: Tensor, residual: Optional[Tensor] = None, relu: bool = False) -> Tensor:
        x = x.to(torch.float32).contiguous()
        residual = None if residual is None else residual.to(torch.float32).contiguous()
        y = x.new_empty(x.size(0), self.out)
        self.library.lamemo_linear(
            x.data_ptr(),
            self.packed.data_ptr(),
            address(self.bias),
            address(residual),
            y.data_ptr(),
            x.size(0),
            x.size(1),
            self.out,
            relu,
            torch.get_num_threads(),
        )
        return y


def scores(library: ctypes.CDLL, qkv: Tensor, cache: Cache, position: Optional[Tensor], first: int) -> Tensor:
    """Scores [H * B, 1, T - first] of a token's queries over the keys from ``first`` on.

    Args:
        qkv: [B, 3 * H * d]; its keys and values enter ``cache``, where T counts them already.
        position: [H, 1, d] as :meth:`Cache.relative` asks for it, or None with absolute positions.
    """
    keys, values, T = cache.keys.tensor, cache.values.tensor, cache.keys.length
    assert keys is not None and values is not None
    H, B, capacity, d = keys.shape
    relative = shared = None
    if position is not None:
        relative, shared = cache.relative(position)
    S = 0 if relative is None else relative.size(2)
    found = qkv.new_empty(H * B, 1, T - first)
    library.lamemo_scores(
        qkv.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        address(relative),
        address(shared),
        found.data_ptr(),
        *(H, B, d, capacity, first, T, S, cache.zero_distance_index + 1 - (T - first)),
        torch.get_num_threads(),
    )
    return found


def mix(library: ctypes.CDLL, weights: Tensor, cache: Cache, first: int, out: Tensor) -> Tensor:
    """``weights`` [H * B, 1, T - first] times values, written to ``out`` [B, H, d]."""
    values = cache.values.tensor
    assert values is not None
    H, B, d, capacity = values.shape
    library.lamemo_mix(
        weights.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        *(H, B, d, capacity, first, cache.values.length),
        torch.get_num_threads(),
    )
    return out
