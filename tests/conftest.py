"""Options of the whole suite."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
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


@pytest.hookimpl(trylast=True)  # when marks have deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = _dealt(items, hands=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


LONGEST = (
    "audits/test_planted_faults.py::test_correct_runs_pass",
    "chaos/test_fifty_kills.py",
    "sweeps/test_ray.py",
    "deployment/test_decisions.py",
    "chaos/test_real_silos.py",
    "test_notebook.py",
    "simulations/test_engines.py",
    "adversary/test_two_worlds.py",
    "privacy/accounting/test_discretisation.py",
    "deployment/server/test_fuzz.py",
    "audits/mechanism/test_planted.py::test_correct_runs_pass",
    "reports/sweep/test_repeat.py",
    "sweeps/test_command.py",
    "sweeps/test_sweep.py",
    "chaos/",
    "adversary/test_task_code.py",
    "commands/test_cli.py",
    "audits/deep/test_deep.py",
    "audits/test_report.py::test_a_flipped_bit",
)
"""What takes longest, or stands still for others, from half a minute on; the longest first."""


def _dealt(items: Sequence[pytest.Item], *, hands: int) -> list[pytest.Item]:
    """A hand for each process, as xdist cuts them; each begins with its share of the longest.

    Or one process is left with them at the end.
    """
    groups: dict[str, list[pytest.Item]] = {start: [] for start in (*LONGEST, "")}
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        groups[next(start for start in groups if name.startswith(start))].append(item)
    rest = iter(groups.pop(""))
    begin: list[list[pytest.Item]] = [[] for _ in range(hands)]
    for number, group in enumerate(filter(None, groups.values())):
        begin[number % hands] += group
    dealt: list[pytest.Item] = []
    for place, own in enumerate(begin):
        size = (len(items) - len(dealt)) // (hands - place)
        dealt += [*own, *islice(rest, max(0, size - len(own)))]
    return [*dealt, *rest]


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
