"""The clear part in front of every upload and every sum, and its strict parser.

    magic "PRVE", version, kind, digest of the cipher, length of the terms, number of clients
    terms, the clients' names, first 8 bytes of the SHA-256 of all of this; the encrypted body

The check value catches accidents. Attackers meet the tags, which bind the terms and the names.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from privet.privacy.encryption.errors import EncryptionError, Malformed
from privet.privacy.encryption.terms import Terms, checked_name

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
