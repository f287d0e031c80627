"""Seconds that a ledger of 10,000 entries takes before a round may read records.

    python benchmarks/ledger.py [--entries 10000] [--folder DIR]

"opened": open the file, replay and check the whole chain, project the round and reserve it, in a
process that has already imported the libraries but has never seen the ledger or its mechanisms.
"next": the same ledger, one round later. "distinct": every round has a mechanism of its own (its
number of entries is told apart, since composing them is what takes the time). "verify": every hash
and every signature. Filling the ledger takes a transaction on disk for each entry.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from dp_accounting import DpEvent

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import Ledger, Limit, SiloKey, fingerprint_of, verify

LIMITS = (Limit(60.0, 1e-5), Limit(60.0, 1e-5, "job"), Limit(60.0, 1e-5, "month"))
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        key = SiloKey.create(Path(folder) / "silo.key")
        print("mechanisms  entries   append    open  opened    next  verify  epsilon")
        _measure(Path(folder) / "ten.sqlite", key, options.entries, mechanisms=10)
        _measure(Path(folder) / "distinct.sqlite", key, options.distinct, mechanisms=10**9)


def _measure(path: Path, key: SiloKey, entries: int, *, mechanisms: int) -> None:
    _, filling = _timed(lambda: _fill(path, key, entries, mechanisms))
    # A new process, which remembers nothing of the mechanisms.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        opening, opened, following, count, epsilon = fresh.submit(
            _rounds, path, entries, mechanisms
        ).result()
    findings, verifying = _timed(lambda: verify(path, key.public))
    assert not findings, findings
    told = "each its own" if mechanisms > entries else str(mechanisms)
    print(
        f"{told:>12}{count:7}  {1e3 * filling / entries:4.1f} ms  {opening:5.3f} s {opened:5.2f} s "
        f"{following:6.3f} s {verifying:5.2f} s  {epsilon:7.3f}"
    )


def _rounds(path: Path, entries: int, mechanisms: int) -> tuple[float, float, float, int, float]:
    key = SiloKey.load(path.parent / "silo.key")
    start = time.perf_counter()
    with Ledger.open(path, key) as ledger:
        opening = time.perf_counter() - start
        _round(ledger, entries, mechanisms)
        opened = time.perf_counter() - start
        _, following = _timed(lambda: _round(ledger, entries + 1, mechanisms))
        return opening, opened, following, len(ledger.entries()), ledger.spent("heart", delta=1e-5)


def _fill(path: Path, key: SiloKey, entries: int, mechanisms: int) -> None:
    with Ledger.create(path, key) as ledger:
        ledger.register("heart", fingerprint_of(np.zeros((4, 2)), np.arange(4)))
        for round_ in range((entries - 2) // 2):
            event = _event(round_ % mechanisms)
            with ledger.reserve(
                dataset="heart", job=f"job-{round_ // 100}", round=round_, event=event, who="lab"
            ) as reservation:
                reservation.records(lambda: None)
                reservation.commit(event)


def _round(ledger: Ledger, round_: int, mechanisms: int) -> None:
    event = _event(round_ % mechanisms)
    with ledger.reserve(
        dataset="heart", job="job-0", round=round_, event=event, who="lab", limits=LIMITS
    ) as reservation:
        reservation.records(lambda: None)


def _event(i: int) -> DpEvent:
    return dp_sgd_event(noise_multiplier=1 + 0.003 * i, sampling_rate=0.004 + 1e-6 * i, steps=4)


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
