"""What silos have said of their ledgers: the last entry that each of them signed for.

A ledger and its head that are both put back from yesterday look whole on the silo's machine. Here
lies what they were at the last meeting, in the silo's own words, which nobody else can make up.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from privet.deployment.monitoring import STRANGERS
from privet.deployment.parties import Party
from privet.files import write_whole
from privet.privacy.ledger.entries import HeadFile, parse_head

log = logging.getLogger(STRANGERS)


class LedgerHeads:
    """One file a silo; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._known: dict[str, int] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def note(self, silo: Party, text: str) -> None:
        """Keep a head that the silo signed, unless a later one is here; ValueError for another."""
        told = _believed(silo, text)
        with self._lock:
            before = self._sequence(silo)
            if told.sequence > before:
                write_whole(self._path(silo), text.encode(), durable=True)
                self._known[silo.name] = told.sequence
            elif told.sequence < before:
                log.error(
                    "the ledger of %s ends at entry %d, and had %d: an older copy was put back",
                    silo.name,
                    told.sequence,
                    before,
                )

    def seen(self, silo: Party) -> str:
        """The last that the silo signed for, or ""."""
        try:
            return self._path(silo).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _sequence(self, silo: Party) -> int:
        if silo.name not in self._known:
            try:
                self._known[silo.name] = _believed(silo, self.seen(silo)).sequence
            except ValueError:  # none yet, or of a key that the silo has not any more
                return 0
        return self._known[silo.name]

    def _path(self, silo: Party) -> Path:
        return self._folder / f"{silo.name}.{silo.identity[:16]}.head"


def _believed(silo: Party, text: str) -> HeadFile:
    head = parse_head(text)
    if not head.is_signed_by(silo.identity):
        raise ValueError("a head that the silo did not sign")
    return head
