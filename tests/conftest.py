"""Options of the whole suite."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Before torch: processes share the cores, where threads that wait for each other only spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
# Ledgers and run folders are written through to the disk thousands of times, which takes minutes.
# Not where devices or programs in a folder of a test would not work.
SHARED = "/dev/shm"
if (
    os.path.ismount(SHARED)
    and not os.statvfs(SHARED).f_flag & (os.ST_NODEV | os.ST_NOEXEC)
    and shutil.disk_usage(SHARED).free > 4 << 30
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", SHARED)
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a script starts with &
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest first, or one process is left with them at the end.
    items.sort(key=lambda item: "chaos" not in item.path.parts)
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    # Flower collects garbage after every array: half a second each with all tests in memory.
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """For -n auto: one more than there are cores, for many tests wait for other processes."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """One browser for all tests of a process; `browser.visit` opens a page in it."""
    from browser import opened

    with opened() as found:
        yield found


@pytest.fixture
def shared_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private runs of one seed that differ in a setting are given the same noise all the same, to
    compare them; privet itself never does this (tests/simulations/test_decided.py)."""
    from privet.simulations.decided import Decided

    monkeypatch.setattr(Decided, "streams", lambda self, _: ("",) * len(self.data))
