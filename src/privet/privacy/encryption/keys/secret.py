"""Secret bytes, and the secret key that the clients share.

Secrets are never shown, compared in constant time, and neither copied nor pickled. What Python
cannot do: wipe memory. A secret stays in the process until its memory is used again, and a core
dump or the swap may hold it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

from privet.privacy.encryption.errors import EncryptionError
from privet.privacy.encryption.header import DIGEST_BYTES


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
        # In constant time: else who may try values finds a secret byte by byte.
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not copied or pickled; pass it on, or keep it in a key file")


TAG_KEY_BYTES = 32

_MAGIC, _VERSION = b"PRVK", 1
_START = struct.Struct(f"<4sB{DIGEST_BYTES}s{TAG_KEY_BYTES}sI")


class SecretKey:
    """A lattice secret key and a tag key, both made fresh; for holders of the key only.

    Shows nothing of itself in `repr`, and is neither copied nor pickled: `to_bytes` is the one way
    out, for a caller who wraps the bytes. Made by `Cipher.generate`.
    """

    __slots__ = ("digest", "lattice", "tag")

    def __init__(self, *, digest: bytes, lattice: bytes, tag: bytes) -> None:
        self.digest = digest
        """Of the cipher's parameters, public."""
        self.lattice = lattice
        """The library's own serialisation; empty for BFV."""
        self.tag = tag

    @classmethod
    def fresh(cls, *, digest: bytes, lattice: bytes) -> SecretKey:
        """With a new tag key from the operating system."""
        return cls(digest=digest, lattice=lattice, tag=os.urandom(TAG_KEY_BYTES))

    @property
    def name(self) -> str:
        """Eight hexadecimal digits that distinguish keys and reveal nothing about them."""
        return hashlib.sha256(b"privet encryption key name 1" + self.tag).hexdigest()[:8]

    def to_bytes(self) -> bytes:
        """The secret itself, to be wrapped before it leaves the process."""
        start = _START.pack(_MAGIC, _VERSION, self.digest, self.tag, len(self.lattice))
        return start + self.lattice

    @classmethod
    def from_bytes(cls, data: bytes) -> SecretKey:
        """The inverse of `to_bytes`, for bytes whose origin the caller has authenticated.

        The lattice key inside reaches a native parser at first use. Raises EncryptionError, with a
        text that shows nothing of `data`.
        """
        if len(data) < _START.size:
            raise EncryptionError("no secret key: it is too short")
        magic, version, digest, tag, length = _START.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION) or length != len(data) - _START.size:
            raise EncryptionError("no secret key of this version")
        return cls(digest=digest, lattice=bytes(data[_START.size :]), tag=tag)

    def __repr__(self) -> str:
        return f"SecretKey(name={self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SecretKey is not copied or pickled: wrap what to_bytes gives")
