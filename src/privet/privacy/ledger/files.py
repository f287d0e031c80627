"""The files beside a ledger's, and its lock between processes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from privet.files import locked
from privet.privacy.ledger.errors import LedgerError

LOCK_SECONDS = 60.0
"""How long a process waits for another one's transaction before it gives up."""


def beside(path: Path, suffix: str) -> Path:
    """The companion of a ledger file, such as ledger.sqlite.head."""
    return path.with_name(path.name + suffix)


def exclusive(path: Path, *, seconds: float = LOCK_SECONDS) -> AbstractContextManager[int]:
    """Keep every other process out of `path`; the lock ends with the process, however it ends.

    LedgerError when the lock cannot be had within `seconds`, or not at all.
    """
    try:
        return locked(path, seconds=seconds)
    except BlockingIOError:
        raise LedgerError(f"{path}: another process holds the ledger; try again") from None
    except OSError as error:
        raise LedgerError(f"{path}: the ledger cannot be locked ({error.strerror})") from None
