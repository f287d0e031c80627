"""A silo's folder, and processes that start in milliseconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest

from privet.privacy.ledger import Ledger, SiloKey, fingerprint_of


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Forks from a server that has imported everything and has one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["privet.privacy.ledger"])
    return context


@pytest.fixture
def silo(tmp_path: Path) -> Callable[[int], Path]:
    """A folder with a key and a ledger that knows "heart" and as many other data sets."""

    def made(others: int = 0) -> Path:
        key = SiloKey.create(tmp_path / "silo.key")
        with Ledger.create(tmp_path / "ledger.sqlite", key) as ledger:
            ledger.register("heart", fingerprint_of(np.zeros((3, 1)), np.arange(3)))
            for number in range(others):
                ledger.register(f"data-{number}", fingerprint_of(np.full((3, 1), number + 1.0)))
        return tmp_path

    return made
