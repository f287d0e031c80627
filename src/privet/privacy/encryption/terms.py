"""What all clients of one sum have agreed on, in the clear."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from privet.privacy.encryption.errors import EncryptionError

_NUMBERS = struct.Struct("<IQd")
_MAX_ROUND = 2**32 - 1
_MAX_SIZE = 2**40


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The round a sum belongs to and the scale of its values; the tags bind all of it.

    Raises EncryptionError for a field out of range.

    >>> Terms(run="heart-7", round=3, size=62_006, clamp=0.5).clamp
    0.5
    """

    run: str
    """1 to 255 printable characters, 255 bytes at most."""
    round: int
    size: int
    """d, the length of the vector."""
    clamp: float
    """Values beyond +-clamp are cut off; also the unit of precision."""

    def __post_init__(self) -> None:
        checked_name("run", self.run)
        _in_range("round", self.round, 0, _MAX_ROUND)
        _in_range("size", self.size, 1, _MAX_SIZE)
        _in_range("clamp", self.clamp, 1e-30, 1e30)

    def to_bytes(self) -> bytes:
        """Round, size, clamp, run: injective, so that it can be what a tag is bound to."""
        return _NUMBERS.pack(self.round, self.size, self.clamp) + self.run.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """The inverse of `to_bytes`; raises EncryptionError or struct.error or UnicodeError."""
        round_, size, clamp = _NUMBERS.unpack_from(data)
        return cls(run=data[_NUMBERS.size :].decode(), round=round_, size=size, clamp=clamp)


def checked_name(field: str, name: str) -> str:
    """`name`, if it is 1 to 255 bytes of printable text; EncryptionError otherwise."""
    if not (0 < len(name.encode(errors="replace")) <= 255 and name.isprintable()):
        raise EncryptionError(f"{field} = {name[:40]!r}: allowed are 1 to 255 printable characters")
    return name


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise EncryptionError(f"{field} = {value}: allowed is {low:g} to {high:g}")
