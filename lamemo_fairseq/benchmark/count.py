"""Counts what a program asks of a device: kernels, bytes, memory, and how often the host waits for an answer.

Counts are of eager torch, one kernel per operation that is no view. Bytes are what a kernel's arguments and results
take, with no cache in between and gathers counted in full: an upper estimate, equal on every machine.
"""

import os
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that start no kernel although their schema does not call them views.
NO_KERNEL = frozenset(
    "_local_scalar_dense alias detach detach_ empty empty_like empty_strided lift_fresh new_empty new_empty_strided "
    "_reshape_alias resize_ _unsafe_view".split()
)
# Operations whose result's shape depends on numbers: a GPU must be waited for before the host can go on.
OF_UNKNOWN_SHAPE = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive")
GIB = 2**30


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in any nest of lists and dictionaries."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def size(tensor: Tensor) -> int:
    """Bytes of the elements."""
    return tensor.numel() * tensor.element_size()


def read(func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation reads: not what it only writes (``out=``, the target of ``copy_``), nor what it
    takes a shape from (``zeros_like``)."""
    name = func._schema.name.split("::")[-1]
    if name.endswith("_like") or name.startswith("new_"):
        return iter(())
    written = {argument.name for argument in func._schema.arguments if argument.is_out}
    args = args[1:] if name == "copy_" else args
    return tensors((args, {key: value for key, value in kwargs.items() if key not in written}))


def place() -> str:
    """``file:line`` of the innermost frame that is neither torch's nor of this folder, for a person to go to."""
    here, library = os.path.dirname(__file__), os.path.dirname(torch.__file__)
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((here, library, "<")):
            short = path.split("site-packages/")[-1]
            cut = short.rfind("lamemo_fairseq/")
            return f"{short[cut:] if cut >= 0 else short}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@dataclass
class Counts:
    """What was counted.

    Attributes:
        kernels: number of kernels, by operation.
        traffic: bytes read and written, by operation.
        waits: number of times that the host waited for the device, by ``file:line``.
        copies: tensors that went from the host to the device, by ``file:line``.
        peak: most bytes alive at once, of what was made while counting.
        kept: bytes that the forward pass keeps for the backward pass, parameters left out.
    """

    kernels: "Counter[str]" = field(default_factory=Counter)
    traffic: "Counter[str]" = field(default_factory=Counter)
    waits: "Counter[str]" = field(default_factory=Counter)
    copies: "Counter[str]" = field(default_factory=Counter)
    peak: int = 0
    kept: int = 0

    @property
    def launched(self) -> int:
        """All kernels."""
        return sum(self.kernels.values())

    @property
    def bytes(self) -> int:
        """All bytes read and written."""
        return sum(self.traffic.values())

    def own_waits(self) -> int:
        """Waits that begin in this project's code, not in fairseq's."""
        return sum(count for where, count in self.waits.items() if where.startswith("lamemo_fairseq"))


class Counting(TorchDispatchMode):
    """Counts all that runs within; fake tensors are given an answer where the host asks for a number.

    Tensors that exist before are in nobody's account but that of the kernels that read them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.alive: Set[int] = set()
        self.held = 0
        self.saved: Dict[int, int] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note_saved, lambda tensor: tensor)

    def __enter__(self) -> "Counting":
        self.hooks.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hooks.__exit__(*error)
        self.counts.kept = sum(self.saved.values())

    def note_saved(self, tensor: Tensor) -> Tensor:
        """A tensor is kept for the backward pass."""
        owner = tensor if tensor._base is None else tensor._base
        if not isinstance(owner, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            self.saved[storage._cdata] = storage.nbytes()
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Optional[Dict[str, Any]] = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        name = func._schema.name.split("::")[-1]
        answer = self.waits(name, given, args, kwargs)
        out = func(*args, **kwargs) if answer is None else answer()
        made = list(tensors(out))
        if any(tensor.device.type == "cpu" for tensor in given) and any(t.device.type == "cuda" for t in made):
            if name in ("_to_copy", "copy_"):
                self.counts.copies[place()] += 1
        if func._schema.name.startswith("aten::") and name not in NO_KERNEL and not func.is_view:
            self.counts.kernels[name] += 1
            self.counts.traffic[name] += sum(map(size, read(func, args, kwargs))) + sum(map(size, made))
        self.hold(given, made)
        return out

    def waits(
        self, name: str, given: List[Tensor], args: Tuple[Any, ...], kwargs: Dict[str, Any]
    ) -> Optional[Callable[[], Any]]:
        """Notes whether the host waits here; what to answer where a fake tensor cannot, else None."""
        on_device = [tensor for tensor in given if tensor.device.type == "cuda"]
        if not on_device:
            return None
        first = on_device[0]
        if name in ("_local_scalar_dense", "equal"):
            self.counts.waits[place()] += 1
            # Finite, all right, or one: the way that a healthy run takes.
            yes = first.dtype == torch.bool or name == "equal"
            return lambda: True if yes else (1.0 if first.dtype.is_floating_point else 1)
        if name in OF_UNKNOWN_SHAPE:
            self.counts.waits[place()] += 1
            half = max(1, first.numel() // 2)  # half of the elements, as good as any part
            return lambda: first.new_zeros((half, first.dim()) if name == "nonzero" else half, dtype=torch.long)
        if name in ("_to_copy", "copy_"):
            target = kwargs.get("device") if name == "_to_copy" else args[0].device
            source = given[-1]
            if source.device.type == "cuda" and target is not None and torch.device(target).type == "cpu":
                self.counts.waits[place()] += 1
        return None

    def hold(self, given: List[Tensor], made: List[Tensor]) -> None:
        """Follows which storages are alive."""
        before = {tensor.untyped_storage()._cdata for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in before and key not in self.alive:
                self.alive.add(key)
                self.held += storage.nbytes()
                self.counts.peak = max(self.counts.peak, self.held)
                weakref.finalize(storage, self.release, key, storage.nbytes())

    def release(self, key: int, nbytes: int) -> None:
        """A storage is gone."""
        self.alive.discard(key)
        self.held -= nbytes
