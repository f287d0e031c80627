"""The examples in docstrings are run, those of every module."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import privet

FEWEST = 20
"""Fewer examples than this: they are not found, or were taken out."""


def _modules() -> list[str]:
    found = pkgutil.walk_packages(privet.__path__, "privet.")
    return [module.name for module in found if module.name != "privet.__main__"]


def test_examples_in_docstrings_give_what_they_say() -> None:
    attempted = 0
    for name in _modules():
        outcome = doctest.testmod(import_module(name))
        assert not outcome.failed, name
        attempted += outcome.attempted
    assert attempted > FEWEST
