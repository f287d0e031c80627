"""Symmetric BFV with half of every ciphertext replaced by the seed it was made from.

A ciphertext of 4096 coefficients travels as c0, in 7.5 bytes a coefficient, and the 64 bytes from
which c1 follows; a sum as the sum of the c0 and all the seeds. The sum of the c1 would be smaller
only above 480 clients. Expanding the seeds takes a receiver about 0.2 ms each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from privet.privacy.encryption.backend import Plaintext
from privet.privacy.encryption.fixed_point import Integers
from privet.privacy.encryption.packing import pack, unpack
from privet.privacy.encryption.parameters import DEGREE, MODULUS
from privet.privacy.encryption.residues import (
    C0_BYTES,
    SEED_BYTES,
    Bytes,
    ResidueSum,
    read_frames,
)
from privet.privacy.encryption.seal import ring


class SeededBackend:
    """BFV through raw SEAL; the server's half is `ResidueSum`, numpy alone.

    Raises SealChanged when the installed TenSEAL cannot do this.
    """

    layout = "seeded"
    modulus_bits = MODULUS.bit_length()
    chunk_bytes = float(C0_BYTES + SEED_BYTES)

    def __init__(self, plain_modulus: int) -> None:
        self._ring = ring(plain_modulus)
        self.name = f"seeded N={DEGREE} q={MODULUS} t={plain_modulus}"

    def generate(self) -> bytes:
        """A fresh secret key, as SEAL saves it."""
        return self._ring.generate()

    def encrypt(self, plaintexts: Iterable[Plaintext], *, secret: bytes) -> Iterator[bytes]:
        """c0 and seed of every chunk in turn."""
        with self._ring.session(secret) as session:
            for plaintext in plaintexts:
                c0, seed = session.encrypt(plaintext)
                yield pack(c0)
                yield seed

    def decrypt(
        self, body: memoryview, *, secret: bytes, chunks: int, clients: int
    ) -> Iterator[Integers]:
        """See `Backend.decrypt`; every frame is checked before the first is decrypted."""
        packed, seeds = read_frames(body, chunks=chunks, seeds=clients)
        return self._decrypted(packed, seeds, secret)

    def accumulator(self, chunks: int) -> ResidueSum:
        """An empty sum."""
        return ResidueSum(chunks)

    def _decrypted(self, packed: Bytes, seeds: Bytes, secret: bytes) -> Iterator[Integers]:
        with self._ring.session(secret) as session:
            for c0, of in zip(packed, seeds, strict=True):
                yield session.decrypt(unpack(c0), [seed.tobytes() for seed in of])
