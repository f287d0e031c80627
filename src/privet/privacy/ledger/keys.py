"""The silo's signing key, and the fingerprint by which it recognises a data set.

Ed25519 (RFC 8032); the private key lies in one file that only its owner may read. A fingerprint is
a data set's size, its layout and a digest of its records, kept under the key only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from numpy.typing import NDArray

from privet.errors import DataError
from privet.files import read_file, write_new
from privet.privacy.ledger.errors import LedgerError


def refuse_open_key(path: Path) -> None:
    """LedgerError when others than its owner may read the key in `path`, OSError for no file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise LedgerError(f"{path} has mode {mode:04o}: others may read the key; chmod 600 it")


class SiloKey:
    """The private key of one silo; its `repr` shows the public key only.

    A file is PEM (PKCS #8, not encrypted) of mode 0600.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        """The public key, 64 hexadecimal digits: what an auditor needs."""

    @classmethod
    def create(cls, path: Path) -> SiloKey:
        """A new key in a new file, on disk when this returns; LedgerError if it cannot be made."""
        key = cls(Ed25519PrivateKey.generate())
        pem = key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            write_new(path, pem)
        except FileExistsError:
            raise LedgerError(f"{path} exists already: a key is never overwritten") from None
        except OSError as error:
            raise LedgerError(f"{path}: the key cannot be written ({error.strerror})") from None
        return key

    @classmethod
    def load(cls, path: Path) -> SiloKey:
        """The key in `path`; LedgerError when others may read the file, or it holds no such key."""
        try:
            refuse_open_key(path)
            pem = read_file(path)
        except OSError as error:
            raise LedgerError(f"{path}: the key cannot be read ({error.strerror})") from None
        return cls(_private_key(pem, path))

    def derived(self, purpose: str) -> bytes:
        """A secret of 32 bytes for one purpose; it tells nothing of the key or of others (HKDF)."""
        private = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return HKDF(SHA256(), length=32, salt=None, info=purpose.encode()).derive(private)

    def sign(self, message: bytes) -> str:
        """The signature of `message`, hexadecimal."""
        return self._private.sign(message).hex()

    def seal(self, text: str) -> str:
        """A keyed digest of `text`: equal for equal texts, and says nothing without the key."""
        raw = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        # A key for this one use: the signing key itself meets no text that others choose.
        secret = hmac.digest(raw, b"privet ledger seal 1", hashlib.sha256)
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"SiloKey(public={self.public!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a SiloKey is not copied or pickled: load it where it is needed")


def signed_by(public: str, message: bytes, signature: object) -> bool:
    """Whether `signature` is that of `message` under the public key `public` (both hexadecimal)."""
    try:
        key, signed = bytes.fromhex(public), bytes.fromhex(str(signature))
        Ed25519PublicKey.from_public_bytes(key).verify(signed, message)
    except (InvalidSignature, ValueError):
        return False
    # `fromhex` takes capitals and blanks too, and a changed byte of the file must not go unseen.
    return signed.hex() == signature


def _private_key(pem: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerError(f"{path} holds no silo key (an Ed25519 private key in PEM)")
    return key


PARTS = ("rows", "schema", "content")


@dataclass(frozen=True)
class Fingerprint:
    """Row count, layout of a record and digest of all records.

    It never leaves the silo: a digest of few or guessable records confirms a guess. The ledger
    keeps only what `sealed` makes of it, and `repr` does not show the digest.
    """

    rows: int
    schema: str
    content: str = field(repr=False)

    def named(self, name: str) -> Fingerprint:
        """The same records as they are recognised under `name` alone."""
        content = hashlib.sha256(f"{name}\n{self.content}".encode()).hexdigest()
        return Fingerprint(self.rows, self.schema, content)

    def sealed(self, key: SiloKey) -> dict[str, str]:
        """Keyed digests of the three parts: equal parts give equal digests, under this key only."""
        return {part: key.seal(f"{part}:{getattr(self, part)}") for part in PARTS}


def fingerprint_of(inputs: NDArray[np.generic], *columns: NDArray[np.generic]) -> Fingerprint:
    """The fingerprint of records held in arrays whose first axis counts them.

    `inputs` is (n, ...), each of `columns` (targets and the like) is (n, ...). The order of the
    records does not matter, every bit of them does. DataError for arrays of unequal length, of
    Python objects, or without a record.
    """
    arrays = [np.asarray(array) for array in (inputs, *columns)]
    if any(array.ndim == 0 or array.dtype.hasobject for array in arrays):
        raise DataError("a fingerprint needs arrays of numbers or fixed-length text, one row each")
    if len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise DataError(f"a fingerprint needs equally many rows: {[len(a) for a in arrays]}")
    # Little-endian everywhere, so that two machines agree about the same records.
    arrays = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    schema = json.dumps([[array.dtype.str, list(array.shape[1:])] for array in arrays])
    return fingerprint_from(
        schema,
        (
            hashlib.sha256(b"".join(array[row].tobytes() for array in arrays)).digest()
            for row in range(len(arrays[0]))
        ),
    )


def fingerprint_from(schema: str, digests: Iterable[bytes]) -> Fingerprint:
    """The fingerprint of records of a layout, by the SHA-256 of each one's little-endian bytes.

    `schema` is JSON: for each array its dtype and the shape of a row. DataError without a record.
    """
    found = sorted(digests)
    if not found:
        raise DataError("a fingerprint needs a record")
    content = hashlib.sha256(schema.encode() + b"".join(found)).hexdigest()
    return Fingerprint(len(found), schema, content)
