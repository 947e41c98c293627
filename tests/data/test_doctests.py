"""The examples in the docstrings of the data floor say what the code does."""

import doctest
import importlib
import pkgutil

import pytest

import lamemo_fairseq.data

MODULES = [f"lamemo_fairseq.data.{module.name}" for module in pkgutil.iter_modules(lamemo_fairseq.data.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_some() -> None:
    for name in ("layout", "segments"):
        module = importlib.import_module(f"lamemo_fairseq.data.{name}")
        assert doctest.testmod(module).attempted >= 6
