"""A mask as long as an update, grown from a seed of 32 bytes.

The keystream of ChaCha20 (RFC 8439), read as numbers of 64 bits, least byte first. Each number is
uniform below 2^64, hence uniform modulo any 2^bits, and sums modulo 2^64 may be reduced at the end.
A seed is used for one stream only, so the nonce is zero.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privet.privacy.encryption.keys.secret import Secret

Coefficients = NDArray[np.uint64]

_BLOCK = 1 << 14
"""Numbers at a time: what is added is still in the cache."""
_ZEROS = bytes(8 * _BLOCK)


def add_stream(total: Coefficients, seed: Secret, *, sign: int) -> None:
    """Add `sign` (1 or -1) times the stream of `seed` to `total`, shape (n,), modulo 2^64."""
    keystream = Cipher(ChaCha20(seed.reveal(), bytes(16)), mode=None).encryptor()
    combine = np.add if sign > 0 else np.subtract
    for start in range(0, total.size, _BLOCK):
        block = total[start : start + _BLOCK]
        numbers = np.frombuffer(keystream.update(_ZEROS[: block.nbytes]), dtype="<u8")
        combine(block, numbers, out=block)


def reduced(total: Coefficients, *, bits: int) -> Coefficients:
    """`total` modulo 2^bits."""
    return total & np.uint64(2**bits - 1)
