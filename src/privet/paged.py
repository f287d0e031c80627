"""Large arrays that need not fit into memory: the system writes them out when it is short of it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGE = 16 << 20
"""Bytes from which an array lies in a file."""


def paged_zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros, as numpy makes them; large ones lie in a file without a name.

    The file is in the system's temporary folder (TMPDIR), only this process can reach it, and it is
    gone with the array. On a full disk, and on macOS, the array is in memory after all.
    """
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    if size >= LARGE and hasattr(os, "posix_fallocate"):
        try:
            return np.frombuffer(_mapped(size), dtype=kind).reshape(shape)
        except OSError:
            pass
    return np.zeros(shape, dtype=kind)


def paged_join(parts: Iterable[bytes]) -> bytes | memoryview:
    """The parts behind each other, only one of them in memory at a time if they are large together.

    Raises OSError when they do not fit on the disk.
    """
    size = 0
    with tempfile.SpooledTemporaryFile(LARGE) as file:
        for part in parts:
            size += len(part)
            if size > LARGE:
                file.rollover()  # before, not after it has grown in memory
            file.write(part)
        if size > LARGE:
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        file.seek(0)
        return file.read()


def _mapped(size: int) -> mmap.mmap:
    with tempfile.TemporaryFile() as file:
        # A hole that cannot be filled later would end the process with a signal.
        os.posix_fallocate(file.fileno(), 0, size)
        # The mapping holds on to the file that is closed here.
        return mmap.mmap(file.fileno(), size)
