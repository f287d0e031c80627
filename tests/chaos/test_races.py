"""Eight processes want the last bit of one budget."""

from __future__ import annotations

import pytest

import ledger_workers as workers
from privet.privacy.accounting import epsilon
from privet.privacy.ledger import Ledger, SiloKey, verify

DELTA = 1e-5


@pytest.mark.parametrize("races", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_one_of_eight_gets_the_last_bit(silo, processes, races):
    """Room for one round: never two winners, never none, never a deadlock."""
    folder = silo(others=races)
    budget = epsilon([workers.event(0)], delta=DELTA)
    barrier = processes.Barrier(8)
    racers = [
        processes.Process(target=workers.race, args=(folder, barrier, races, budget, DELTA))
        for _ in range(8)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(30 + races)
    assert [racer.exitcode for racer in racers] == [0] * 8
    winners = sorted(map(int, (folder / "winners").read_text().split()))
    assert winners == list(range(races))
    key = SiloKey.load(folder / "silo.key")
    with Ledger.open(folder / "ledger.sqlite", key) as ledger:
        spent = {ledger.spent(f"data-{n}", delta=DELTA) for n in range(races)}
        who = {entry.who for entry in ledger.entries() if entry.kind == "reserve"}
    assert spent == {budget}
    assert len(who) > 1, "one process did everything: no race took place"
    assert verify(folder / "ledger.sqlite", key.public) == []
