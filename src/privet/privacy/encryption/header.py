"""The clear part in front of every upload and every sum, and its strict parser.

    magic "PRVE", version, kind, digest of the cipher, length of the terms, number of clients
    terms, the clients' names, first 8 bytes of the SHA-256 of all of this; the encrypted body

The check value catches accidents. Against attackers there are the tags, which bind the terms (what
all clients of one sum have agreed on) and the names.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from privet.privacy.encryption.errors import EncryptionError, Malformed

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
    # A lone surrogate has no encoding; that it is not printable refuses it.
    if not (0 < len(name.encode(errors="replace")) <= 255 and name.isprintable()):
        raise EncryptionError(f"{field} = {name[:40]!r}: allowed are 1 to 255 printable characters")
    return name


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise EncryptionError(f"{field} = {value}: allowed is {low:g} to {high:g}")


DIGEST_BYTES = 16

Kind = Literal["upload", "sum"]

_MAGIC, _VERSION = b"PRVE", 1
_START = struct.Struct(f"<4sBB{DIGEST_BYTES}sHH")
_CHECK_BYTES = 8
_KINDS: tuple[Kind, ...] = ("upload", "sum")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What can be known about an upload or a sum without a key."""

    kind: Kind
    digest: bytes
    """Of the cipher's parameters: only equal ones can be added or decrypted."""
    terms: Terms
    clients: tuple[str, ...]
    """Whose uploads these are, sorted, none twice; a claim until the sum is decrypted."""

    def to_bytes(self) -> bytes:
        """What stands before the body."""
        terms, names = self.terms.to_bytes(), [name.encode() for name in self.clients]
        kind = _KINDS.index(self.kind)
        start = _START.pack(_MAGIC, _VERSION, kind, self.digest, len(terms), len(names))
        text = b"".join((start, terms, *(bytes([len(name)]) + name for name in names)))
        return text + hashlib.sha256(text).digest()[:_CHECK_BYTES]


def assembled(header: Header, body: Iterable[bytes]) -> bytes:
    """Header and body as one message; each part of the body is let go before the next is made."""
    message = BytesIO()
    message.write(header.to_bytes())
    for part in body:
        message.write(part)
    return message.getvalue()


def read_header(data: bytes) -> tuple[Header, memoryview]:
    """The header of an upload or a sum, and the encrypted body behind it.

    Raises Malformed for anything that `Header.to_bytes` does not write.
    """
    try:
        header = _parse(data)
    except (struct.error, UnicodeError, IndexError, EncryptionError) as error:
        raise Malformed(f"no header of an encrypted vector: {error}") from None
    # Written once more and compared: one header has exactly one encoding.
    text = header.to_bytes()
    if not data.startswith(text):
        raise Malformed("no header of an encrypted vector: the check value is wrong")
    return header, memoryview(data)[len(text) :]


def _parse(data: bytes) -> Header:
    magic, version, kind, digest, length, count = _START.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise Malformed(f"it starts with {magic.hex()} {version}")
    end = _START.size + length
    terms = Terms.from_bytes(data[_START.size : end])
    clients = tuple(_names(data, start=end, count=count))
    header = Header(kind=_KINDS[kind], digest=digest, terms=terms, clients=clients)
    if not clients or list(clients) != sorted(set(clients)):
        raise Malformed("clients are missing, not in order or there twice")
    if header.kind == "upload" and len(clients) != 1:
        raise Malformed(f"an upload of {len(clients)} clients")
    return header


def _names(data: bytes, *, start: int, count: int) -> Iterator[str]:
    for _ in range(count):
        end = start + 1 + data[start]
        yield checked_name("client", data[start + 1 : end].decode())
        start = end
