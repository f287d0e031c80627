"""A file in memory: SEAL's own interface reads and writes paths only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Self


class Scratch:
    """One unnamed file, gone when closed; on systems without memfd a private temporary file.

    Not to be carried through a fork: both processes would write to the same file.
    """

    def __init__(self) -> None:
        self._named: Path | None = None
        if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
            self._descriptor = os.memfd_create("privet", os.MFD_CLOEXEC)
            self.path = f"/proc/self/fd/{self._descriptor}"
        else:
            self._descriptor, self.path = tempfile.mkstemp(prefix="privet-")
            self._named = Path(self.path)

    def read(self) -> bytes:
        """All of the file."""
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def write(self, *parts: bytes, offset: int = 0) -> None:
        """`parts`, one after the other, from `offset` on; the rest of the file stays."""
        for part in parts:
            offset += os.pwrite(self._descriptor, part, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up."""
        os.close(self._descriptor)
        if self._named is not None:
            self._named.unlink(missing_ok=True)
