"""Files that are there whole or not at all, and on disk when a function returns."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from privet.privacy.ledger.files import sync_folder


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put `content` in the place of whatever `path` held.

    OSError when that fails; the old file then stands as it was.
    """
    temporary = _written(path, content, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet; FileExistsError, and no change, when it is."""
    temporary = _written(path, content, mode)
    try:
        path.hardlink_to(temporary)  # unlike a rename, it never overwrites
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _written(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
