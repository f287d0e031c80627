"""Files that are on disk when a function returns, and a lock between processes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.privacy.ledger.errors import LedgerError

LOCK_SECONDS = 60.0
"""How long a process waits for another one's transaction before it gives up."""


def beside(path: Path, suffix: str) -> Path:
    """The companion of a ledger file, such as ledger.sqlite.head."""
    return path.with_name(path.name + suffix)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 and wait until its content is on disk."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def exclusive(path: Path, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep every other process out of `path`; the lock ends with the process, however it ends.

    LedgerError when the lock cannot be had within `seconds`, or not at all.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(f"{path}: the ledger cannot be locked ({error.strerror})") from None
    try:
        _acquire(descriptor, path, time.monotonic() + seconds)
        yield
    finally:
        # Explicitly: a child that was forked in between shares the descriptor and would keep it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LedgerError(f"{path}: another process holds the ledger; try again") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
