"""What a ledger cannot do, and what it will not do.

LedgerError     the file cannot be read, written or believed
LedgerRefusal   the file is well, the request is turned down
"""

from __future__ import annotations

from pathlib import Path

from privet.errors import PrivetError


class LedgerError(PrivetError):
    """The ledger cannot be read, written or believed: no record may be read on its strength."""


class LedgerRefusal(PrivetError):  # noqa: N818 - it is the ledger that is right
    """A request that the ledger turns down; what was recorded before stands."""


def distrust(path: Path, problem: str) -> LedgerError:
    """The error that sends the reader to `privet ledger verify`."""
    return LedgerError(f"{path}: {problem}; see 'privet ledger verify {path}'")
