"""Keyed linear tags: sums that add up over clients, and that only holders of the key can make.

A chunk's tags are T_k = sum_j r_(j+k) z_j mod P for k = 0, 1, with digits z_j below P = 2^31 - 1
and words r_j that HMAC and AES-256 in counter mode make from the tag key, the terms and the number
of the chunk. Sharing the words between both tags is Toeplitz hashing (Mansour, Nisan & Tiwari 1990;
Krawczyk 1994): whoever does not know them and changes digits finds a fitting pair of tags with
probability at most (3 / 2^32)^2 < 2^-60, since a word of 32 bits falls on one residue with
probability at most 3 / 2^32. The digits are hashed and not the coefficients they lie in: a
coefficient can exceed P, and a change by a multiple of P would not be seen.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.parameters import TAG_MODULUS, TAGS

_BLOCK = 128
"""A digit is at most 2^25 and a word below 2^32: so many products add up below 2^64."""


class Words:
    """Secret pseudorandom words of 32 bits for every chunk of one sum."""

    def __init__(self, tag_key: bytes, *, purpose: bytes, context: bytes) -> None:
        info = b"privet encryption 1 %d %b%b" % (len(purpose), purpose, context)
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(tag_key)

    def of(self, chunk: int, count: int) -> NDArray[np.uint32]:
        """`count` words that belong to `chunk`."""
        # The upper half of the counter names the chunk; blocks within it never reach that half.
        start = chunk.to_bytes(8, "big") + bytes(8)
        stream = Cipher(algorithms.AES(self._key), modes.CTR(start)).encryptor()
        return np.frombuffer(stream.update(bytes(4 * count)), dtype="<u4")


class Tagger:
    """Tags for the chunks of one sum under one key."""

    def __init__(self, tag_key: bytes, *, context: bytes) -> None:
        self._words = Words(tag_key, purpose=b"tags", context=context)

    def tags(self, chunk: int, digits: Integers) -> Integers:
        """The tags of `digits`, shape (n,), each at most 2^25; shape (2,), below P."""
        words = self._words.of(chunk, len(digits) + TAGS - 1).astype(np.uint64)
        tags = [_hash(words[k : k + len(digits)], digits) for k in range(TAGS)]
        return np.array(tags, dtype=np.uint64)


def _hash(words: Integers, digits: Integers) -> int:
    products = words * digits
    sums = np.add.reduceat(products, np.arange(0, len(products), _BLOCK))
    return int((sums % TAG_MODULUS).sum()) % TAG_MODULUS
