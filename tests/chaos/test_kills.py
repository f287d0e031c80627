"""A silo that is killed at any instant has charged at least what its records really saw.

The witness is a file of its own: a line for every noisy step, written before the step could be
seen by anybody. After every kill the ledger is verified and compared with it, and the next process
goes on with the same two files.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

import ledger_workers as workers
from privet.privacy.accounting.events import merged
from privet.privacy.ledger import Ledger, SiloKey, verify

DELTA = 1e-5


def check(folder: Path) -> int:
    """The ledger is whole and says no less than the witness; the number of its entries."""
    key = SiloKey.load(folder / "silo.key")
    ledger_file, witness = folder / "ledger.sqlite", folder / "witness"
    lines = witness.read_text().splitlines() if witness.exists() else []
    seen = Counter(line.split()[1] for line in lines if line.startswith("step"))
    reserved = {int(line.split()[1]) for line in lines if line.startswith("reserved")}
    committed = {int(line.split()[1]) for line in lines if line.startswith("committed")}
    assert verify(ledger_file, key.public) == []
    with Ledger.open(ledger_file, key) as ledger:
        charged = {
            (part.noise_multiplier, part.sampling_rate): part.steps
            for part in merged(ledger.events("heart"))
        }
        entries = ledger.entries("heart")
        ended = {e.reservation for e in entries if e.kind == "commit"}
    assert reserved <= {e.sequence for e in entries if e.kind == "reserve"}
    assert committed <= ended
    for number, mechanism in enumerate(workers.MECHANISMS):
        assert charged.get(mechanism, 0) >= seen[str(number)]
    return len(entries)


def kill(processes, target, *arguments, after: float | None = None) -> int:
    """Run `target` until it dies, or for `after` seconds of work; its exit code."""
    process = processes.Process(target=target, args=arguments)
    witness = arguments[0] / "witness"
    before = witness.stat().st_size if witness.exists() else 0
    process.start()
    if after is not None:
        # On a busy machine a process may need longer to begin than it is given to work.
        while not witness.exists() or witness.stat().st_size == before:
            assert process.is_alive(), process.exitcode
            time.sleep(0.002)
        time.sleep(after)
        process.kill()
    process.join(60)
    assert process.exitcode is not None, "deadlock"
    return process.exitcode


def many(default: int, slow: int):
    """The same test with few kills, and with all of them when asked."""
    return pytest.mark.parametrize("kills", [default, pytest.param(slow, marks=pytest.mark.slow)])


@many(12, 80)
def test_killed_before_any_line_of_the_ledger(silo, processes, kills):
    """Between every two statements: before and after BEGIN, INSERT, COMMIT and the signed head."""
    folder, rng = silo(), random.Random(1)
    died = 0
    for number in range(kills):
        line = rng.randrange(1, 1500)
        died += kill(processes, workers.work_until_line, folder, 10 * number, line) == -9
        check(folder)
    assert died > kills / 2


@many(12, 60)
def test_killed_in_the_middle_of_a_write(silo, processes, kills):
    """The kernel ends the process inside write(2), with part of a page on disk."""
    rng = random.Random(2)
    for number in range(kills):
        if number % 12 == 0:  # every check reads the whole ledger
            folder = silo(name=f"silo-{number}")
        longest = max(path.stat().st_size for path in folder.iterdir())
        size = longest + rng.randrange(1, 60_000)
        exit_code = kill(processes, workers.work_until_byte, folder, 10 * number, size)
        assert exit_code == -25, "it was not the file size that ended it"
        check(folder)


@many(12, 60)
def test_killed_at_any_time(silo, processes, kills):
    rng = random.Random(3)
    for number in range(kills):
        if number % 6 == 0:  # every check reads the whole ledger
            folder = silo(name=f"silo-{number}")
            before = check(folder)
        seconds = rng.uniform(0.0, 0.25)
        kill(processes, workers.work, folder, 10_000, 10 * number, after=seconds)
        after = check(folder)
        assert after > before, "it was killed before it had begun"
        before = after


def test_without_a_kill_the_charge_is_exactly_what_ran(silo, processes):
    folder = silo()
    assert kill(processes, workers.work, folder, 10) == 0
    key = SiloKey.load(folder / "silo.key")
    check(folder)
    with Ledger.open(folder / "ledger.sqlite", key) as ledger:
        steps = sum(part.steps for part in merged(ledger.events("heart")))
        kinds = Counter(entry.kind for entry in ledger.entries("heart"))
    assert steps == (folder / "witness").read_text().count("step")
    assert kinds == {"note": 1, "reserve": 10, "commit": 8, "release": 2}


def test_a_full_disk_refuses_and_loses_nothing(silo, processes):
    """Every size at which the disk can fill up, from a page on."""
    folder = silo()
    for number, room in enumerate((100, 2_000, 4_096, 9_000, 25_000, 70_000)):
        longest = max(path.stat().st_size for path in folder.iterdir())
        target = workers.work_on_a_full_disk
        assert kill(processes, target, folder, 10 * number, longest + room) == 0
        check(folder)
    said = (folder / "said").read_text().splitlines()
    assert len(said) == 6
    assert all("ledger.sqlite" in line and "no" in line for line in said), said
    assert kill(processes, workers.work, folder, 3, 1000) == 0, "with room again it goes on"
    check(folder)
