"""Ledgers as the guard opens them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privet.privacy.ledger import Ledger, SiloKey

_kept: dict[tuple[Path, int], Ledger] = {}


@dataclass(frozen=True)
class Books:
    """Where a silo's ledger and the key that signs it lie.

    `simulated`: every silo of a run writes into one ledger, which stays open in each process until
    `close_simulated`, and is durable against the death of a process only.
    """

    ledger: Path
    key: Path
    simulated: bool = False

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        """The ledger, open; LedgerError when it cannot be believed or written."""
        if self.simulated:
            yield self._keep_open()
            return
        with Ledger.open(self.ledger, SiloKey.load(self.key)) as ledger:
            yield ledger

    def close_simulated(self) -> None:
        """Put all that was written into the one file and sign it, whichever process wrote it."""
        kept = _kept.pop((self.ledger, os.getpid()), None)
        (kept or self._opened()).close()

    def _keep_open(self) -> Ledger:
        place = self.ledger, os.getpid()  # a forked worker must open it anew
        if place not in _kept:
            _kept[place] = self._opened()
        return _kept[place]

    def _opened(self) -> Ledger:
        return Ledger.open(self.ledger, SiloKey.load(self.key), durable=False)
