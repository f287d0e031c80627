"""A silo's folder, and processes that start in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from privet.privacy.ledger import Ledger, SiloKey, fingerprint_of


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Forks from a server that has imported everything and has one thread.

    A process has one such server for all contexts, and what the first test asks for it keeps.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaded_before"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


@pytest.fixture
def silo(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a key and a ledger that knows "heart" and as many other data sets."""

    def made(others: int = 0, *, name: str = "silo") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        key = SiloKey.create(folder / "silo.key")
        with Ledger.create(folder / "ledger.sqlite", key) as ledger:
            ledger.register("heart", fingerprint_of(np.zeros((3, 1)), np.arange(3)))
            for number in range(others):
                ledger.register(f"data-{number}", fingerprint_of(np.full((3, 1), number + 1.0)))
        return folder

    return made
