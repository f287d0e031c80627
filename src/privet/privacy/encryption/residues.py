"""The server's half of the seeded layout: residues are added, seeds are collected.

Only numpy sees what a client sent. A frame is one chunk: 4096 packed residues, then seeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from privet.paged import paged_zeros
from privet.privacy.encryption.errors import Malformed, Refused
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.packing import PACKED_PER_COEFFICIENT, add, lift, pack, unpack
from privet.privacy.encryption.parameters import DEGREE, MODULUS

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
