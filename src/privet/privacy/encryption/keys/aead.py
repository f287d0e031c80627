"""Encryption that notices every change, and keys made from keys.

ChaCha20-Poly1305 (RFC 8439) under keys from HKDF-SHA256 (RFC 5869). Nonces are random, 96 bits.
Each key here belongs to one sender and one purpose, so a handful of messages share it; a repeated
nonce would need about 2^48 of them for even odds (NIST SP 800-38D allows 2^32).
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privet.privacy.encryption.keys.errors import KeysError
from privet.privacy.encryption.keys.fields import Fields
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
    nonce = os.urandom(12)
    return nonce + ChaCha20Poly1305(key.reveal()).encrypt(nonce, plaintext, bound)


def decrypt(box: bytes, *, key: Secret, bound: bytes, fields: Fields) -> bytes:
    """What `encrypt` was given. MessageError, in the words of `fields`, when anything differs."""
    try:
        return ChaCha20Poly1305(key.reveal()).decrypt(box[:12], box[12:], bound)
    except (InvalidTag, ValueError, OverflowError):
        raise fields.fault("it cannot be opened: altered, or not meant for here") from None
