"""One process for one folder: a file with its number, locked while it lives."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.errors import PrivetError


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Hold `path` with this process's number in it; PrivetError when another process holds it.

    The lock goes with the process, however it ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 20).decode("ascii", errors="replace").strip()
        os.close(descriptor)
        raise PrivetError(f"{path.parent} is in use by process {holder or 'unknown'}") from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
