"""Files that are there whole or not at all.

One process for one folder: a file with its number, locked while it lives.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.errors import PrivetError


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of whatever `path` held, once it is on disk.

    A process that dies meanwhile leaves the old file, and perhaps `.<name>.part` beside it, which
    the next call overwrites. `path` has one writer.
    """
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


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
