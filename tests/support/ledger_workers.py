"""What the processes of the ledger's chaos tests do; importable by their names in a new process."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from privet.privacy.accounting import dp_sgd_event
from privet.privacy.ledger import BudgetExceeded, Ledger, LedgerError, Limit, SiloKey

MECHANISMS = ((1.0, 0.05), (1.5, 0.1))
STEPS = 5


def event(round_: int, steps: int = STEPS) -> Any:
    noise, rate = MECHANISMS[round_ % len(MECHANISMS)]
    return dp_sgd_event(noise_multiplier=noise, sampling_rate=rate, steps=steps)


class Witness:
    """A record of its own, kept without the ledger: one line for everything that happened.

    A write(2) survives the death of its process, so a line that was written is there.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def says(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


def work(folder: Path, rounds: int, first: int = 0) -> None:
    """Rounds as a silo runs them: reserve, open the records, noisy steps, commit what ran."""
    witness = Witness(folder / "witness")
    key = SiloKey.load(folder / "silo.key")
    with Ledger.open(folder / "ledger.sqlite", key) as ledger:
        for round_ in range(first, first + rounds):
            with ledger.reserve(
                dataset="heart", job="job", round=round_, event=event(round_), who="lab"
            ) as reservation:
                witness.says("reserved", reservation.sequence)
                if round_ % 5 == 4:
                    continue
                reservation.records(lambda: None)
                ran = STEPS - round_ % 3
                for _ in range(ran):
                    # The record sees the noise no earlier than this line exists.
                    witness.says("step", round_ % len(MECHANISMS))
                reservation.commit(event(round_, ran))
                witness.says("committed", reservation.sequence)


def work_until_line(folder: Path, first: int, line: int) -> None:
    """`work`, killed (SIGKILL) before the `line`-th line of the ledger's code that it runs."""
    left = line

    def trace(frame: Any, what: str, _argument: object) -> Any:
        nonlocal left
        if "privacy/ledger" not in frame.f_code.co_filename:
            return None
        if what == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work(folder, 3, first)


def work_until_byte(folder: Path, first: int, size: int) -> None:
    """`work`, killed by the kernel in the write that makes any file longer than `size` bytes.

    The bytes up to there are written: a page of the log is torn in two.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    work(folder, 50, first)


def work_on_a_full_disk(folder: Path, first: int, size: int) -> None:
    """`work` where no file can grow beyond `size`; says what the ledger said."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        work(folder, 50, first)
    except LedgerError as error:
        Witness(folder / "said").says(error)


def race(folder: Path, barrier: Any, races: int, epsilon: float, delta: float) -> None:
    """Try to get the one reservation that each of many data sets has room for."""
    witness = Witness(folder / "winners")
    key = SiloKey.load(folder / "silo.key")
    limits = [Limit(epsilon, delta), Limit(epsilon, delta, "job")]
    with Ledger.open(folder / "ledger.sqlite", key) as ledger:
        for number in range(races):
            barrier.wait(60)
            with suppress(BudgetExceeded):
                reservation = ledger.reserve(
                    dataset=f"data-{number}",
                    job="job",
                    round=0,
                    event=event(0),
                    who=str(os.getpid()),
                    limits=limits,
                )
                reservation.records(lambda: None)
                witness.says(number)
