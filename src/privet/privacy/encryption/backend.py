"""What a cipher's two ends implement, and the parameters that make overflow impossible.

A backend encrypts one plaintext after another, whatever the plaintexts mean. Symbols of the BFV
parameters as in Fan & Vercauteren (ePrint 2012/144): ring degree N, ciphertext modulus q, plaintext
modulus t. A coefficient below t is cut into digits; a digit holds one value of a client, and the
bits above it hold the carry of the sum over clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.privacy.encryption.errors import EncryptionError
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey

Plaintext = NDArray[Any]
"""A chunk: uint64 coefficients below t for BFV, the last one maybe fewer than 4096, and float64
slots for CKKS."""
Mask = NDArray[np.uint16]
"""Numbers modulo 2^16, shape (4096,), that hide the secret of one upload."""


class Accumulator(Protocol):
    """The server's side: ciphertexts in, one sum of ciphertexts out."""

    def add(self, body: memoryview) -> None:
        """Add the body of an upload; all of it or, with Malformed or UploadRefused, nothing."""

    def body(self) -> Iterator[bytes]:
        """The body of the sum, in parts."""


class Backend(Protocol):
    """The clients' side, and the maker of the server's."""

    @property
    def name(self) -> str:
        """Everything two ends must agree on, as text; part of the cipher's digest."""

    @property
    def takes_masks(self) -> bool:
        """Whether an upload opens to noise without what all masks add up to."""

    @property
    def modulus_bits(self) -> int:
        """log2 of the largest modulus that anything is encrypted under."""

    @property
    def chunk_bytes(self) -> float:
        """Bytes of one encrypted chunk in an upload."""

    def generate(self) -> bytes:
        """A fresh secret key of the lattice; empty where none outlives an upload."""

    def check(self, lattice: bytes) -> None:
        """EncryptionError for what is no key that `generate` could have given."""

    def encrypt(
        self,
        plaintexts: Iterable[Plaintext],
        *,
        key: SecretKey,
        terms: Terms,
        mask: Mask | None = None,
    ) -> Iterator[bytes]:
        """The body of an upload, in parts, one chunk at a time."""

    def decrypt(
        self, body: memoryview, *, key: SecretKey, header: Header, length: int
    ) -> Iterator[Plaintext]:
        """The chunks of a sum, `length` numbers in all; nothing says yet that they are right.

        Raises Malformed, before the first chunk, when the body has another length or form.
        """

    def accumulator(self, length: int) -> Accumulator:
        """An empty sum of so many numbers in all chunks."""


DEGREE = 4096
MODULUS = 2**60 - 2**14 + 1
"""The largest prime of 60 bits that is 1 modulo 2N: what SEAL chooses for one prime of 60 bits, so
that SEAL can open the same sums."""

MAX_MODULUS_BITS = {128: 109, 192: 75, 256: 58}
"""Security in bits -> largest log2 q for N = 4096, ternary secret, error of deviation 3.2.

HomomorphicEncryption.org standard (ePrint 2019/939), table 1; SEAL enforces the first column.
"""

COINS = 128
"""Of the centred binomials that secrets and errors are drawn from: -64 to 64, deviation 5.66."""


CUT_ERROR = 10
"""What sending a residue in 56 bits adds to a client's error at most (`residues.narrow`)."""

SECRET_BITS = 11
"""In which sums of secrets are sent."""


def coins_bound(clients: int) -> int:
    """What a sum of secrets or errors stays below, but with probability 2^-128 (Hoeffding)."""
    return math.isqrt(COINS * clients * 90 // 2) + 1


def noise_bound(clients: int) -> int:
    """What the error of a sum stays below, but with probability 2^-128 a coefficient.

    `clients` honest errors of 128 coins, and for each one of rounding q/t and what is cut off.
    """
    return coins_bound(clients) + clients + CUT_ERROR * (clients + 1)


TAG_MODULUS = 2**31 - 1
TAGS = 2


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How values lie in the plaintext of one ciphertext; immutable, every field is public.

    Raises EncryptionError when `max_clients` honest clients could overflow a digit or a tag,
    whatever they send, or the noise with a probability above that of `noise_bound`.
    """

    name: str
    value_bits: int
    """A value is an integer of this many bits, -L to L with L = 2^(value_bits - 1) - 1."""
    digits: int
    """Digits in a coefficient."""
    digit_bits: int
    plain_modulus: int
    """t, a power of two."""
    max_clients: int
    """K_max, the most clients in one sum."""

    def __post_init__(self) -> None:
        for field, holds, allowed in self._conditions():
            if not holds:
                raise EncryptionError(
                    f"profile {self.name!r}: {field} = {getattr(self, field)}, allowed is {allowed}"
                )

    def _conditions(self) -> Iterator[tuple[str, bool, str]]:
        clients, t = self.max_clients, self.plain_modulus
        yield "max_clients", clients >= 1, "at least 1"
        yield "value_bits", 2 <= self.value_bits <= 24, "2 to 24"
        yield "digits", self.digits >= 1, "at least 1"
        yield "digit_bits", 1 <= self.digit_bits <= 25, "1 to 25"
        room = 2 ** (self.digits * self.digit_bits)
        # Tags add up 128 digits times words of 32 bits below 2^64, whatever a coefficient holds;
        # `lift` multiplies it by 14 bits in 64.
        most = min(2 ** ((self.digits - 1) * self.digit_bits + 25) + 2**25 - 1, 2**50)
        yield "plain_modulus", room <= t <= most, f"room for the digits, {room} to {most}"
        yield "plain_modulus", t.bit_count() == 1, "a power of two"
        # A client's digit is below 2^value_bits; sums must not carry into the next digit.
        most = (2**self.digit_bits - 1) // (2**self.value_bits - 1)
        yield "max_clients", clients <= most, f"at most {most}: more overflow a digit"
        # Tags lie in coefficients of their own and are reduced modulo P only after decryption.
        most = (t - 1) // (TAG_MODULUS - 1)
        yield "max_clients", clients <= most, f"at most {most}: more overflow a tag"
        # Decryption is exact while the noise is below q / 2t; 3 of that is kept for rounding.
        room = MODULUS // (2 * t) - 3
        yield "max_clients", noise_bound(clients) <= room, f"fewer: the noise has room for {room}"
        room = 2 ** (SECRET_BITS - 1)
        yield "max_clients", coins_bound(clients) <= room, f"fewer: secrets have room for {room}"

    @property
    def levels(self) -> int:
        """L: a value lies between -L and L."""
        return int(2 ** (self.value_bits - 1)) - 1


DEFAULT = Profile(
    name="default", value_bits=16, digits=2, digit_bits=23, plain_modulus=2**47, max_clients=128
)
COMPACT = Profile(
    name="compact", value_bits=12, digits=3, digit_bits=16, plain_modulus=2**50, max_clients=16
)
PRECISE = Profile(
    name="precise", value_bits=21, digits=2, digit_bits=25, plain_modulus=2**50, max_clients=16
)
PROFILES = {profile.name: profile for profile in (DEFAULT, COMPACT, PRECISE)}


def security_bits(modulus_bits: int) -> int:
    """The highest level of the standard that N = 4096 and a modulus of this length reach.

    Raises EncryptionError below 128.

    >>> security_bits(60), security_bits(109)
    (192, 128)
    """
    reached = [bits for bits, limit in MAX_MODULUS_BITS.items() if modulus_bits <= limit]
    if not reached:
        raise EncryptionError(
            f"log2 q = {modulus_bits} is below 128 bits of security at N = {DEGREE},"
            f" allowed is at most {MAX_MODULUS_BITS[128]}"
        )
    return max(reached)
