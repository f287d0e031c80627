"""What every chunk says besides values: how many clients, their weight, and which uploads."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass

import numpy as np

from privet.privacy.encryption.codec import Contribution, identity
from privet.privacy.encryption.fixed_point import Integers, join, split, weight_to_integer
from privet.privacy.encryption.secret import SecretKey
from privet.privacy.encryption.terms import Terms

FIELD_BITS = 48
"""Of a weight, an identity, a nonce."""


@dataclass(frozen=True, kw_only=True)
class Trailer:
    """One client's, or the sum of several; all chunks of an upload carry the same.

    The nonce is fresh, so a sum that takes different uploads in different chunks is noticed. The
    identity follows from key, terms and name, so a sum is of the clients that its header names,
    each once, or it is noticed. Either escapes with probability 2^-48.
    """

    count: int
    weight: int
    identity: int
    nonce: int

    @classmethod
    def of(cls, own: Contribution, *, terms: Terms, secret: SecretKey) -> Trailer:
        """The trailer of one upload."""
        return cls(
            count=1,
            weight=weight_to_integer(own.weight),
            identity=identity(own.client, terms=terms, secret=secret, bits=FIELD_BITS),
            nonce=int.from_bytes(os.urandom(FIELD_BITS // 8)),
        )

    def is_of(self, clients: tuple[str, ...], *, terms: Terms, secret: SecretKey) -> bool:
        """Whether this is a sum over exactly these clients, with a weight above zero."""
        identities = sum(
            identity(client, terms=terms, secret=secret, bits=FIELD_BITS) for client in clients
        )
        return (self.count, self.identity) == (len(clients), identities) and self.weight > 0

    def to_digits(self, *, bits: int) -> Integers:
        """One digit of `bits` bits for the count, then the other fields, shape (length(bits),)."""
        count, *fields = astuple(self)
        width = _width(bits)
        digits = [digit for field in fields for digit in split(field, bits=bits, count=width)]
        return np.array([count, *digits], dtype=np.uint64)

    @classmethod
    def from_digits(cls, digits: Integers, *, bits: int) -> Trailer:
        """The inverse of `to_digits`, for sums as well."""
        width = _width(bits)
        weight, identity_, nonce = (
            join(digits[start : start + width], bits=bits) for start in range(1, 3 * width, width)
        )
        return cls(count=int(digits[0]), weight=weight, identity=identity_, nonce=nonce)


def trailer_length(bits: int) -> int:
    """Digits of a trailer."""
    return 1 + 3 * _width(bits)


def _width(bits: int) -> int:
    return -(-FIELD_BITS // bits)
