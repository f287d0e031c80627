"""Fixed-point digits, a trailer and tags in the coefficients of BFV plaintexts.

coefficients 0 .. N-3   digits: values of the vector, then the trailer
coefficients N-2, N-1   the tags of all those digits
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from privet.privacy.encryption.codec import Contribution, OpenedSum, SealedSum, bound_to
from privet.privacy.encryption.errors import Tampered
from privet.privacy.encryption.fixed_point import (
    Integers,
    from_digits,
    integer_to_weight,
    to_digits,
)
from privet.privacy.encryption.packing import add, coefficients_to_digits, digits_to_coefficients
from privet.privacy.encryption.parameters import DEGREE, TAG_MODULUS, TAGS, Profile
from privet.privacy.encryption.secret import SecretKey
from privet.privacy.encryption.tags import Tagger
from privet.privacy.encryption.terms import Terms
from privet.privacy.encryption.trailer import FIELD_BITS, Trailer, trailer_length


class FixedPointCodec:
    """Exact sums of vectors of `profile.value_bits` bits a value."""

    def __init__(self, profile: Profile) -> None:
        self._profile, self._levels = profile, profile.levels
        self.values = profile.digits * (DEGREE - TAGS) - trailer_length(profile.value_bits)
        self.mask_modulus: int | None = profile.plain_modulus
        self.mask_length = DEGREE
        self.name = (
            f"fixed-point {profile.digits}x{profile.digit_bits} bits, values {profile.value_bits},"
            f" fields {FIELD_BITS}, tags {TAGS} mod {TAG_MODULUS}, clients {profile.max_clients}"
        )

    def encode(self, own: Contribution, *, terms: Terms, secret: SecretKey) -> Iterator[Integers]:
        """Coefficients below t, shape (4096,), for every `values` values of the vector."""
        tagger = Tagger(secret.tag, context=bound_to(terms, secret))
        trailer = Trailer.of(own, terms=terms, secret=secret)
        end = trailer.to_digits(bits=self._profile.value_bits)
        digits = np.concatenate([np.zeros(self.values, dtype=np.uint64), end])
        for chunk, start in enumerate(range(0, terms.size, self.values)):
            part = own.x[start : start + self.values]
            digits[: len(part)] = to_digits(
                part, weight=own.weight, clamp=terms.clamp, levels=self._levels, rng=own.rng
            )
            digits[len(part) : self.values] = 0
            coefficients = self._coefficients(digits, tagger.tags(chunk, digits))
            yield self._masked(coefficients, own.mask, chunk)

    def decode(self, chunks: Iterable[Integers], *, of: SealedSum, secret: SecretKey) -> OpenedSum:
        """See `Codec.decode`."""
        terms, clients = of.header.terms, of.header.clients
        tagger = Tagger(secret.tag, context=bound_to(terms, secret))
        mean = np.empty(terms.size, dtype=np.float32)
        genuine, ends = True, []
        for chunk, coefficients in enumerate(chunks):
            digits = self._digits(coefficients)
            tags = coefficients[-TAGS:] % TAG_MODULUS
            genuine &= np.array_equal(tags, tagger.tags(chunk, digits))
            ends.append(digits[self.values :].copy())
            part = mean[chunk * self.values : (chunk + 1) * self.values]
            part[:] = from_digits(
                digits[: len(part)], clients=len(clients), clamp=terms.clamp, levels=self._levels
            )
        genuine &= all(np.array_equal(end, ends[0]) for end in ends)
        trailer = Trailer.from_digits(ends[0], bits=self._profile.value_bits)
        if not (genuine and trailer.is_of(clients, terms=terms, secret=secret)):
            raise Tampered
        weight = integer_to_weight(trailer.weight)
        mean /= weight
        return OpenedSum(mean=mean, weight=weight, clients=clients)

    def _coefficients(self, digits: Integers, tags: Integers) -> Integers:
        profile = self._profile
        values = digits_to_coefficients(
            digits, per_coefficient=profile.digits, bits=profile.digit_bits
        )
        return np.concatenate([values, tags])

    def _digits(self, coefficients: Integers) -> Integers:
        profile = self._profile
        return coefficients_to_digits(
            coefficients[:-TAGS], per_coefficient=profile.digits, bits=profile.digit_bits
        )

    def _masked(self, coefficients: Integers, mask: Integers | None, chunk: int) -> Integers:
        if mask is None:
            return coefficients
        part = mask[chunk * DEGREE : (chunk + 1) * DEGREE]
        return add(coefficients, part, modulus=self._profile.plain_modulus)
