"""Bytes that are never shown, compared in constant time, and neither copied nor pickled.

What Python cannot do: wipe memory. A secret stays in the process until its memory is used again,
and a core dump or the swap may hold it.
"""

from __future__ import annotations

import hmac
import os


class Secret:
    """Bytes behind one deliberate word, `reveal()`; `repr`, `str` and logs show the length only."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    @classmethod
    def random(cls, size: int = 32) -> Secret:
        """`size` fresh bytes of the operating system."""
        return cls(os.urandom(size))

    def reveal(self) -> bytes:
        """The bytes themselves."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not copied or pickled; pass it on, or keep it in a key file")
