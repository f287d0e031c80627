"""What encrypts one plaintext after another, apart from what the plaintexts mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

Plaintext = NDArray[Any]
"""A chunk: uint64 coefficients below t for BFV, float64 slots for CKKS."""


class Accumulator(Protocol):
    """The server's half: ciphertexts in, one sum of ciphertexts out."""

    def add(self, body: memoryview) -> None:
        """Add the body of an upload; all of it or, with Malformed or Refused, nothing."""

    def body(self) -> Iterator[bytes]:
        """The body of the sum, in parts."""


class Backend(Protocol):
    """The clients' half, and the maker of the server's."""

    @property
    def name(self) -> str:
        """Everything two ends must agree on, as text; part of the cipher's digest."""

    @property
    def layout(self) -> str:
        """ "seeded" or "documented"."""

    @property
    def modulus_bits(self) -> int:
        """log2 of the largest modulus that anything is encrypted under."""

    @property
    def chunk_bytes(self) -> float:
        """Bytes of one encrypted chunk in an upload."""

    def generate(self) -> bytes:
        """A fresh secret key."""

    def encrypt(self, plaintexts: Iterable[Plaintext], *, secret: bytes) -> Iterator[bytes]:
        """The body of an upload, in parts, one chunk at a time."""

    def decrypt(
        self, body: memoryview, *, secret: bytes, chunks: int, clients: int
    ) -> Iterator[Plaintext]:
        """The chunks of a sum of `clients` uploads; nothing says yet that they are right.

        Raises Malformed, before the first chunk, when the body has another length or form.
        """

    def accumulator(self, chunks: int) -> Accumulator:
        """An empty sum."""
