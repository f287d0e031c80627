"""The ledger of a run folder: `ledger.sqlite`, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privet.errors import PrivetError
from privet.privacy.ledger import History, read_history, verify

LEDGER = "ledger.sqlite"
MOST_SIGNATURES = 20_000
"""A check takes about 0.15 ms a signature; in a longer ledger only the chain of hashes is."""


@dataclass(frozen=True)
class Books:
    """What the ledger says, and what is wrong with it; `history` is None if it cannot be read."""

    history: History | None
    findings: tuple[str, ...] = ()
    signatures_checked: bool = False

    def spent(self, silo: str, *, delta: float | None) -> float | None:
        """Epsilon of all that the ledger charges the silo; None where that cannot be known."""
        if self.history is None or delta is None:
            return None
        try:
            return self.history.spent(silo, delta=delta)
        except PrivetError:
            return None


def read_books(folder: Path, *, most_signatures: int = MOST_SIGNATURES) -> Books | None:
    """The ledger in a run folder, None if there is none; damage of any kind becomes a finding.

    Hashes are always checked; signatures, and whether the end is the one that was signed, in
    ledgers of up to `most_signatures` entries.
    """
    path = folder / LEDGER
    if not path.exists():
        return None
    try:
        history = read_history(path)
        checked = len(history.entries) <= most_signatures
        found = tuple(str(finding) for finding in verify(path)) if checked else ()
    except Exception as error:  # a damaged file can hold anything
        return Books(None, (_told(error, path),))
    return Books(history, tuple(text.replace(str(path), LEDGER) for text in found), checked)


def _told(error: Exception, path: Path) -> str:
    if isinstance(error, PrivetError):
        return str(error).removeprefix(f"{path}: ").replace(str(path), LEDGER)
    return f"the file is damaged ({type(error).__name__}: {error})"
