"""A restricted unpickler for checkpoints of others: tensors, containers, and two classes known by name.

The authors' trainer saves an ``argparse.Namespace`` and its ``Vocab`` with the state. Their place is taken by
:class:`Record`, which holds attributes and does nothing; every other name is refused, so that nothing in a file runs.
``torch.load(..., pickle_module=...)`` takes this module.
"""

import collections
import pickle
from typing import Any, BinaryIO, Dict, Tuple

import torch


class Record:
    """Attributes of an object whose class is not here."""


class ForbiddenName(pickle.UnpicklingError):
    """A file names something that is neither a tensor, a container nor one of the known classes."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}")
        self.name = name


#: what builds tensors and containers, by module and name
KNOWN: Dict[Tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): collections.Counter,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,  # as older protocols of pickle say it
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}
for _name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
    KNOWN["torch", _name] = getattr(torch, _name)
for _name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"):
    KNOWN["torch", f"{_name}Storage"] = getattr(torch, f"{_name}Storage")


class Unpickler(pickle.Unpickler):
    """Reads a file that may name what is in :data:`KNOWN`, and ``Namespace`` and ``Vocab`` as :class:`Record`."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; others raise :class:`ForbiddenName`."""
        vocabulary = name == "Vocab" and module.rpartition(".")[2] == "vocabulary"
        if vocabulary or (module, name) == ("argparse", "Namespace"):
            return type("Record", (Record,), {})  # one each time: a file can change the class that it gets
        if (module, name) not in KNOWN:
            raise ForbiddenName(f"{module}.{name}")
        return KNOWN[module, name]


def load(file: BinaryIO, **arguments: Any) -> Any:
    """As ``pickle.load``; torch reads the head of its older files with it."""
    return Unpickler(file, **arguments).load()
