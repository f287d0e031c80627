"""Seconds to account one more round after k rounds of distinct mechanisms.

    python benchmarks/accounting.py

Left, `Spending.after(event).epsilon(delta)`; right, the same answer from all events at once, as an
accountant without memory must give it (dp-accounting's PLDAccountant, grid 1e-3).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dp_accounting import DpEvent
from dp_accounting.pld import PLDAccountant

from privet.privacy.accounting import Spending, dp_sgd_event

DELTA = 1e-5


def main() -> None:
    events = [_event(i) for i in range(201)]
    spending = Spending()
    print("segments  one more round  recomputed  ratio  epsilon")
    for count, event in enumerate(events):
        if count in (10, 50, 200):
            _compare(spending, events[:count], event)
        spending = spending.after(event)


def _event(i: int) -> DpEvent:
    """Twelve steps with a noise multiplier and a sampling rate that no other round has."""
    return dp_sgd_event(noise_multiplier=1 + 0.003 * i, sampling_rate=0.05 + 5e-4 * i, steps=12)


def _compare(spending: Spending, before: list[DpEvent], event: DpEvent) -> None:
    ours, epsilon = _timed(lambda: spending.after(event).epsilon(DELTA))
    theirs, same = _timed(lambda: _recomputed([*before, event]))
    assert abs(epsilon - same) < 1e-3 * same
    print(f"{len(before):8}  {ours:12.3f} s  {theirs:8.2f} s  {theirs / ours:5.0f}  {epsilon:7.3f}")


def _recomputed(events: list[DpEvent]) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for event in events:
        accountant.compose(event)
    return float(accountant.get_epsilon(DELTA))


def _timed(call: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
