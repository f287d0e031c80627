"""The server's half of the seeded layout: residues are added, seeds are collected.

Only numpy sees what a client sent. A frame is one chunk: 4096 packed residues, then seeds.

Sixty-bit residues in 7.5 bytes each, digits in coefficients, sums modulo q and t. Only numpy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from privet.paged import paged_zeros
from privet.privacy.encryption.errors import Malformed, UploadRefused
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.parameters import DEGREE, MODULUS

_ROWS = 16
_LOW_60 = np.uint64(2**60 - 1)
_NIBBLES = np.arange(0, 60, 4, dtype=np.uint64)[:, None]
PACKED_PER_COEFFICIENT = 7.5
_MODULUS_BITS = MODULUS.bit_length()


def pack(residues: Integers) -> bytes:
    """`residues`, shape (n,), n a multiple of 16, each below 2^60, in 7.5 n bytes.

    Fifteen rows of words hold a residue each and, in their upper four bits, a nibble of the
    sixteenth row.
    """
    rows = residues.reshape(_ROWS, -1)
    words = (rows[-1] >> _NIBBLES) << np.uint64(60)
    words |= rows[:-1]
    return bytes(words.astype("<u8", copy=False).data)


def unpack(packed: NDArray[np.uint8]) -> Integers:
    """The inverse of `pack`; any bytes give residues below 2^60."""
    words = packed.view("<u8").reshape(_ROWS - 1, -1)
    rows = np.empty((_ROWS, words.shape[1]), dtype=np.uint64)
    np.bitwise_and(words, _LOW_60, out=rows[:-1])
    np.bitwise_or.reduce((words >> np.uint64(60)) << _NIBBLES, axis=0, out=rows[-1])
    return rows.reshape(-1)


def add(a: Integers, b: Integers, *, modulus: int, out: Integers | None = None) -> Integers:
    """a + b modulo `modulus`, for summands below it and a modulus below 2^63."""
    total: Integers = np.add(a, b, out=out)
    # Below the modulus the difference wraps to something huge, and the sum is the smaller one.
    np.minimum(total, total - np.uint64(modulus), out=total)
    return total


def lift(plaintext: Integers, plain_modulus: int) -> Integers:
    """q * m / t to the nearest integer for every m below t: where a message lies in c0.

    For t a power of two up to 2^50: q is 2^60 less 2^14 - 1, so q * m / t is m shifted less a share
    whose numerator fits 64 bits.
    """
    bits = plain_modulus.bit_length() - 1
    share = plaintext * np.uint64(2**_MODULUS_BITS - MODULUS)
    share += np.uint64(plain_modulus // 2 - 1)  # a half is rounded up in the difference
    share >>= np.uint64(bits)
    lifted: Integers = plaintext << np.uint64(_MODULUS_BITS - bits)
    lifted -= share
    return lifted


def digits_to_coefficients(digits: Integers, *, per_coefficient: int, bits: int) -> Integers:
    """`digits`, shape (n,), n a multiple of `per_coefficient`, shape (n / per_coefficient,)."""
    planes = digits.reshape(per_coefficient, -1)
    coefficients: Integers = planes[0].copy()
    for place in range(1, per_coefficient):
        coefficients |= planes[place] << np.uint64(bits * place)
    return coefficients


def coefficients_to_digits(coefficients: Integers, *, per_coefficient: int, bits: int) -> Integers:
    """The inverse; the highest digit keeps what lies above it."""
    planes = np.empty((per_coefficient, len(coefficients)), dtype=np.uint64)
    for place in range(per_coefficient):
        np.right_shift(coefficients, np.uint64(bits * place), out=planes[place])
    planes[:-1] &= np.uint64(2**bits - 1)
    return planes.reshape(-1)


SEED_BYTES = 64
C0_BYTES = int(PACKED_PER_COEFFICIENT * DEGREE)

Bytes = NDArray[np.uint8]


class ResidueSum:
    """A running sum of uploads: 32 kB a chunk, and 64 bytes a chunk and client."""

    def __init__(self, chunks: int) -> None:
        self._total = paged_zeros((chunks, DEGREE), np.uint64)
        self._seeds: list[Bytes] = []

    def add(self, body: memoryview) -> None:
        """Add an upload; Malformed or Refused leaves the sum as it was.

        Raises Refused for an upload that was added before, under whatever name.
        """
        packed, seeds = read_frames(body, chunks=len(self._total), seeds=1)
        own = seeds[:, 0].copy()
        if any((own == earlier).all(axis=1).any() for earlier in self._seeds):
            raise UploadRefused("the upload repeats a ciphertext that is in the sum already")
        for total, chunk in zip(self._total, packed, strict=True):
            add(total, unpack(chunk), modulus=MODULUS, out=total)
        self._seeds.append(own)

    def add_plain(self, coefficients: Integers, *, plain_modulus: int) -> None:
        """Add a plaintext that is known, shape (chunks * 4096,), each below t = `plain_modulus`.

        As BFV encodes it: every coefficient m as q * m / t to the nearest integer, which takes as
        much of the room for noise as the rounding in one more upload would.
        """
        for total, chunk in zip(self._total, coefficients.reshape(-1, DEGREE), strict=True):
            add(total, lift(chunk, plain_modulus), modulus=MODULUS, out=total)

    def body(self) -> Iterator[bytes]:
        """All frames: the sum of the residues, then the seeds of all summands."""
        seeds = np.stack(self._seeds, axis=1)
        for total, of in zip(self._total, seeds, strict=True):
            yield pack(total)
            yield of.tobytes()


def read_frames(body: memoryview, *, chunks: int, seeds: int) -> tuple[Bytes, Bytes]:
    """Packed residues, shape (chunks, 30720), and seeds, shape (chunks, seeds, 64), as views.

    Raises Malformed for another length or a residue that is not below q.
    """
    frame = C0_BYTES + SEED_BYTES * seeds
    if len(body) != chunks * frame:
        raise Malformed(f"the body has {len(body)} bytes, expected are {chunks * frame}")
    frames = np.frombuffer(body, dtype=np.uint8).reshape(chunks, frame)
    packed = frames[:, :C0_BYTES]
    if any(unpack(chunk).max() >= MODULUS for chunk in packed):
        raise Malformed("a residue is not below the modulus")
    return packed, frames[:, C0_BYTES:].reshape(chunks, seeds, SEED_BYTES)
