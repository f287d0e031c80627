"""glibc's allocator, told to keep the memory of big temporaries.

By default every tensor above 128 KiB is mapped from the system and given back at once; training
then spends up to half of its time in page faults. Keeping the memory changes no result.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Apply the settings to this process and its forks; whether the system has such settings."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False  # musl
    accepted = [
        mallopt(_M_MMAP_MAX, 0),
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
        mallopt(_M_TOP_PAD, 64 * 2**20),
    ]
    return all(accepted)
