"""What the plaintexts mean: a vector, a weight and who sent them, in chunks that can be added."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from privet.privacy.encryption.backend import Plaintext
from privet.privacy.encryption.fixed_point import Integers, Reals
from privet.privacy.encryption.header import Header
from privet.privacy.encryption.secret import SecretKey
from privet.privacy.encryption.terms import Terms

if TYPE_CHECKING:
    from privet.vectors import Vector  # at run time it would bring torch along


@dataclass(frozen=True)
class SealedSum:
    """An encrypted sum, its header read and its body not."""

    header: Header
    body: memoryview = field(repr=False)

    def fingerprint(self) -> bytes:
        """32 bytes that no other body has."""
        return hashlib.sha256(self.body).digest()


@dataclass(frozen=True)
class OpenedSum:
    """A decrypted sum whose tags were right."""

    mean: Vector
    """sum(w_i x_i) / sum(w_i), shape (d,), float32."""
    weight: float
    """sum(w_i)."""
    clients: tuple[str, ...]
    """Whose uploads were added, each once and nothing else."""


@dataclass(frozen=True)
class Contribution:
    """One client's part of a sum."""

    x: Reals
    """Shape (d,), finite."""
    weight: float
    """In (0, 1]."""
    client: str
    rng: np.random.Generator
    """For stochastic rounding."""
    mask: Integers | None = None
    """One number below t for each coefficient, added modulo t; the masks of a sum add to zero."""


class Codec(Protocol):
    """Vectors to chunks of plaintext and sums of chunks to means."""

    @property
    def name(self) -> str:
        """Everything two ends must agree on, as text; part of the cipher's digest."""

    @property
    def values(self) -> int:
        """Values of the vector in one chunk."""

    @property
    def mask_modulus(self) -> int | None:
        """t, or None where masks cannot be added."""

    @property
    def mask_length(self) -> int:
        """Numbers of a mask in one chunk."""

    def encode(self, own: Contribution, *, terms: Terms, secret: SecretKey) -> Iterator[Plaintext]:
        """The chunks of one upload."""

    def decode(self, chunks: Iterable[Plaintext], *, of: SealedSum, secret: SecretKey) -> OpenedSum:
        """The sum of what `encode` gave the clients of the header.

        Raises Tampered when it is anything else, after a look at every chunk.
        """


def bound_to(terms: Terms, secret: SecretKey) -> bytes:
    """What tags are bound to besides the key: the cipher's parameters and the terms."""
    return secret.digest + terms.to_bytes()


def identity(client: str, *, terms: Terms, secret: SecretKey, bits: int) -> int:
    """A secret number of a client in one sum: what makes the list of clients unforgeable."""
    message = bound_to(terms, secret) + bytes(1) + client.encode()
    digest = hmac.digest(secret.tag, b"privet encryption client 1" + message, hashlib.sha256)
    return int.from_bytes(digest[:16]) >> (128 - bits)
