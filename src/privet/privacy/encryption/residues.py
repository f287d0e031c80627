"""The server's half of the seeded layout: residues are added, seeds are collected.

Only numpy sees what a client sent. A frame is one chunk: 4096 packed residues, then seeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privet.privacy.encryption.errors import Malformed, Refused
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.packing import PACKED_PER_COEFFICIENT, add, pack, unpack
from privet.privacy.encryption.parameters import DEGREE, MODULUS

SEED_BYTES = 64
_HALF = 24
C0_BYTES = int(PACKED_PER_COEFFICIENT * DEGREE)

Bytes = NDArray[np.uint8]


class ResidueSum:
    """A running sum of uploads: 32 kB a chunk, and 64 bytes a chunk and client."""

    def __init__(self, chunks: int) -> None:
        self._total = np.zeros((chunks, DEGREE), dtype=np.uint64)
        self._seeds: list[Bytes] = []

    def add(self, body: memoryview) -> None:
        """Add an upload; Malformed or Refused leaves the sum as it was.

        Raises Refused for an upload that was added before, under whatever name.
        """
        packed, seeds = read_frames(body, chunks=len(self._total), seeds=1)
        own = seeds[:, 0].copy()
        if any((own == earlier).all(axis=1).any() for earlier in self._seeds):
            raise Refused("the upload repeats a ciphertext that is in the sum already")
        for total, chunk in zip(self._total, packed, strict=True):
            add(total, unpack(chunk), modulus=MODULUS, out=total)
        self._seeds.append(own)

    def add_plain(self, coefficients: Integers, *, plain_modulus: int) -> None:
        """Add a plaintext that is known, shape (chunks * 4096,), each below t = `plain_modulus`.

        As BFV encodes it: every coefficient m as q * m / t to the nearest integer, which takes as
        much of the room for noise as the rounding in one more upload would.
        """
        for total, chunk in zip(self._total, coefficients.reshape(-1, DEGREE), strict=True):
            add(total, scaled(chunk, plain_modulus=plain_modulus), modulus=MODULUS, out=total)

    def to_bytes(self) -> bytes:
        """All frames: the sum of the residues, then the seeds of all summands."""
        seeds = np.stack(self._seeds, axis=1)
        frames = zip(self._total, seeds, strict=True)
        return b"".join(part for total, of in frames for part in (pack(total), of.tobytes()))


def scaled(coefficients: Integers, *, plain_modulus: int) -> Integers:
    """q * m / t to the nearest integer, for each m below t, a power of two up to 2^48.

    In words of 64 bits: with r = q mod t it is m * (q // t) + (m * r + t / 2) // t, and m * r is
    put together from halves of 24 bits.
    """
    bits = plain_modulus.bit_length() - 1
    if plain_modulus != 1 << bits or bits > 2 * _HALF:
        raise ValueError(f"plain_modulus = {plain_modulus} must be a power of two up to 2^48")
    quotient, rest = divmod(MODULUS, plain_modulus)
    half, mask = np.uint64(_HALF), np.uint64(2**_HALF - 1)
    high, low = coefficients >> half, coefficients & mask
    rest_high, rest_low = np.uint64(rest >> _HALF), np.uint64(rest & (2**_HALF - 1))
    middle = high * rest_low + low * rest_high + ((low * rest_low) >> half)
    top = high * rest_high + (middle >> half)
    bottom = ((middle & mask) << half) | (low * rest_low & mask)
    # m * r = top * 2^48 + bottom; divided by t = 2^bits, to the nearest.
    share = (top << np.uint64(2 * _HALF - bits)) + (
        (bottom + np.uint64(plain_modulus >> 1)) >> np.uint64(bits)
    )
    whole: Integers = coefficients * np.uint64(quotient) + share
    return whole % np.uint64(MODULUS)


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
