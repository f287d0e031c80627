"""When an entry is written, and with which software."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from privet.privacy.ledger.entries import canonical
from privet.privacy.ledger.errors import LedgerError

Clock = Callable[[], datetime]
"""Tells the time, with a time zone."""


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


def written(clock: Clock) -> str:
    """The present time as entries write it."""
    now = clock()
    if now.tzinfo is None:
        raise LedgerError("the ledger's clock must tell the time zone")
    return now.astimezone(UTC).isoformat(timespec="microseconds")


@lru_cache(maxsize=1)
def versions() -> str:
    """The software that writes the entries."""
    found = {}
    for package in ("privet", "dp-accounting", "opacus", "torch"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return canonical({**found, "python": platform.python_version()}).decode()
