"""Key agreement between two silos (X25519, RFC 7748), and authenticated encryption under its keys.

The relay between the silos learns nothing. Messages are encrypted with ChaCha20-Poly1305 (RFC 8439)
under keys from HKDF-SHA256 (RFC 5869). Nonces are random, 96 bits. Each key here belongs to one
sender and one purpose, so a handful of messages share it; a repeated nonce would need about 2^48 of
them for even odds (NIST SP 800-38D allows 2^32).
"""

from __future__ import annotations

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from privet.privacy.encryption.errors import KeysError, MessageError
from privet.privacy.encryption.keys.roster import Fields
from privet.privacy.encryption.keys.secret import Secret

OVERHEAD = 12 + 16
"""Bytes that encryption adds: nonce and tag."""
MOST_PLAINTEXT = 2**31 - 1 - OVERHEAD
"""Bytes in one message; what the library takes."""


def derive(secret: Secret, *, info: bytes) -> Secret:
    """A key of 32 bytes that belongs to `info`; it says nothing about `secret` or other keys."""
    return Secret(HKDF(SHA256(), length=32, salt=None, info=info).derive(secret.reveal()))


def encrypt(plaintext: bytes, *, key: Secret, bound: bytes) -> bytes:
    """Nonce and ciphertext; opens only with the same `key` and `bound`, which is not included."""
    if len(plaintext) > MOST_PLAINTEXT:
        raise KeysError(f"{len(plaintext)} bytes are too many for one message")
    nonce = os.urandom(12)  # no counter: a process may start anew for every message
    return nonce + ChaCha20Poly1305(key.reveal()).encrypt(nonce, plaintext, bound)


def decrypt(box: bytes, *, key: Secret, bound: bytes, fields: Fields) -> bytes:
    """What `encrypt` was given. MessageError, in the words of `fields`, when anything differs."""
    try:
        return ChaCha20Poly1305(key.reveal()).decrypt(box[:12], box[12:], bound)
    except (InvalidTag, ValueError, OverflowError):
        # One text for every cause: which check failed is nothing that a forger should learn.
        raise fields.fault("it cannot be opened: altered, or not meant for here") from None


class AgreementKey:
    """An X25519 private key for one purpose; its `repr` shows the public key only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        """The public key, 32 bytes."""

    @classmethod
    def generate(cls) -> AgreementKey:
        """A new key."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: Secret) -> AgreementKey:
        """The key that `secret()` gave, 32 bytes."""
        return cls(X25519PrivateKey.from_private_bytes(secret.reveal()))

    def secret(self) -> Secret:
        """The private key, 32 bytes."""
        raw = self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return Secret(raw)

    def agree(self, peer: bytes, *, info: bytes) -> Secret:
        """32 bytes that only this key and the one behind the public key `peer` can derive.

        `info` says what they are for. MessageError for a peer that forces a known result (a point
        of small order) or is no key.
        """
        try:
            # The raw result is not uniform; HKDF below makes a key of it, bound to its purpose.
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise MessageError("agreement refused: the peer's public key is not one") from None
        return derive(Secret(shared), info=info)

    def __repr__(self) -> str:
        return f"AgreementKey(public={self.public.hex()!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an AgreementKey is not copied or pickled; keep it in a key file")


def read_public(fields: Fields, name: str) -> bytes:
    """The next field as a public key of silo `name`, which signed it; 32 bytes.

    MessageError for one that no agreement can use: found here, it can be attributed to the silo.
    """
    public = fields.blob(size=32)
    try:
        # A point of small order forces an all-zero secret with every key; the library refuses it.
        _probe().agree(public, info=b"")
    except MessageError:
        raise fields.fault(f"the public key of silo {name!r} is of small order") from None
    return public


@lru_cache(maxsize=1)
def _probe() -> AgreementKey:
    """A key that is used for nothing else."""
    return AgreementKey.generate()
