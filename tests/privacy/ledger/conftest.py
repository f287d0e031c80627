"""A silo's key, ledgers, and a clock that the test moves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from privet.privacy.ledger import Fingerprint, Ledger, SiloKey, fingerprint_of


class Clock:
    """Stands at the moment that the test says."""

    def __init__(self) -> None:
        self.now = datetime(2025, 1, 31, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SiloKey:
    return SiloKey.create(tmp_path_factory.mktemp("silo") / "silo.key")


@pytest.fixture(scope="session")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> SiloKey:
    return SiloKey.create(tmp_path_factory.mktemp("other") / "silo.key")


@pytest.fixture
def records() -> Callable[[int], Fingerprint]:
    """The fingerprint of the n-th of many data sets."""
    return lambda n: fingerprint_of(np.full((4, 2), n, np.float32), np.arange(4))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: what waits for a disk is tested in tests/chaos."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path, key: SiloKey, clock: Clock, records) -> Iterator[Ledger]:
    """An open ledger with the data set "heart"."""
    with Ledger.create(path, key, clock=clock) as opened:
        opened.register("heart", records(0))
        yield opened
