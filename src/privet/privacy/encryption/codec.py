"""What the plaintexts mean: a vector, a weight and who sent them, in chunks that can be added.

    coefficients 0 .. n-3   fixed-point digits: values of the vector, then the trailer
    coefficients n-2, n-1   the tags of all those digits

n is N = 4096, and in the last chunk what it takes: coefficients that hold nothing are not sent.

The trailer says how many clients there are, their weight, and which uploads. Tags are linear and
keyed: those of clients add up to those of the sum, and only holders of the key can make them. A
chunk's tags are T_k = sum_j r_(j+k) z_j mod P for k = 0, 1, with digits z_j below P = 2^31 - 1
and words r_j that HMAC and AES-256 in counter mode make from the tag key, the terms and the number
of the chunk. Sharing the words between both tags is Toeplitz hashing (Mansour, Nisan & Tiwari 1990;
Krawczyk 1994): whoever does not know them and changes digits finds a fitting pair of tags with
probability at most (3 / 2^32)^2 < 2^-60, since a word of 32 bits falls on one residue with
probability at most 3 / 2^32. The digits are hashed and not the coefficients they lie in: a
coefficient can exceed P, and a change by a multiple of P would not be seen.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privet.privacy.encryption.backend import DEGREE, TAG_MODULUS, TAGS, Plaintext, Profile
from privet.privacy.encryption.errors import Tampered
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.residues import (
    Integers,
    Reals,
    coefficients_to_digits,
    digits_to_coefficients,
    from_digits,
    integer_to_weight,
    join,
    split,
    to_digits,
    weight_to_integer,
)

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


class Codec(Protocol):
    """Vectors to chunks of plaintext and sums of chunks to means."""

    @property
    def name(self) -> str:
        """Everything two ends must agree on, as text; part of the cipher's digest."""

    @property
    def values(self) -> int:
        """Values of the vector in a full chunk."""

    def length(self, size: int) -> int:
        """Numbers in all chunks of a vector of `size` values."""

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
    # A zero byte between run and name, which neither can have: no two pairs give one message.
    message = bound_to(terms, secret) + bytes(1) + client.encode()
    digest = hmac.digest(secret.tag, b"privet encryption client 1" + message, hashlib.sha256)
    return int.from_bytes(digest[:16]) >> (128 - bits)


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


_BLOCK = 128
"""A digit is at most 2^25 and a word below 2^32: so many products add up below 2^64."""


class Words:
    """Secret pseudorandom words of 32 bits for every chunk of one sum."""

    def __init__(self, tag_key: bytes, *, purpose: bytes, context: bytes) -> None:
        # With its length, so that no purpose and context can be taken for another two.
        info = b"privet encryption 1 %d %b%b" % (len(purpose), purpose, context)
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(tag_key)

    def of(self, chunk: int, count: int) -> NDArray[np.uint32]:
        """`count` words that belong to `chunk`."""
        # The upper half of the counter names the chunk; blocks within it never reach that half.
        start = chunk.to_bytes(8, "big") + bytes(8)
        stream = Cipher(algorithms.AES(self._key), modes.CTR(start)).encryptor()
        return np.frombuffer(stream.update(bytes(4 * count)), dtype="<u4")


class Tagger:
    """Tags for the chunks of one sum under one key."""

    def __init__(self, tag_key: bytes, *, context: bytes) -> None:
        self._words = Words(tag_key, purpose=b"tags", context=context)

    def tags(self, chunk: int, digits: Integers) -> Integers:
        """The tags of `digits`, shape (n,), each at most 2^25; shape (2,), below P."""
        words = self._words.of(chunk, len(digits) + TAGS - 1).astype(np.uint64)
        tags = [_hash(words[k : k + len(digits)], digits) for k in range(TAGS)]
        return np.array(tags, dtype=np.uint64)


def _hash(words: Integers, digits: Integers) -> int:
    # At most 2^57 each, so a block of 128 stays below 2^64: nothing wraps before the reduction.
    products = words * digits
    sums = np.add.reduceat(products, np.arange(0, len(products), _BLOCK))
    return int((sums % TAG_MODULUS).sum()) % TAG_MODULUS


class FixedPointCodec:
    """Exact sums of vectors of `profile.value_bits` bits a value."""

    def __init__(self, profile: Profile) -> None:
        self._profile, self._levels = profile, profile.levels
        self._trailer = trailer_length(profile.value_bits)
        self.values = profile.digits * (DEGREE - TAGS) - self._trailer
        self.name = (
            f"fixed-point {profile.digits}x{profile.digit_bits} bits, values {profile.value_bits},"
            f" fields {FIELD_BITS}, tags {TAGS} mod {TAG_MODULUS}, clients {profile.max_clients},"
            " last chunk cut"
        )

    def length(self, size: int) -> int:
        """See `Codec.length`."""
        full, rest = divmod(size, self.values)
        return full * DEGREE + (self._filled(rest) + TAGS if rest else 0)

    def encode(self, own: Contribution, *, terms: Terms, secret: SecretKey) -> Iterator[Integers]:
        """Coefficients below t, shape (4096,) or less, for every `values` values of the vector."""
        tagger = Tagger(secret.tag, context=bound_to(terms, secret))
        trailer = Trailer.of(own, terms=terms, secret=secret)
        end = trailer.to_digits(bits=self._profile.value_bits)
        for chunk, start in enumerate(range(0, terms.size, self.values)):
            part = own.x[start : start + self.values]
            digits = np.zeros(self._profile.digits * self._filled(len(part)), dtype=np.uint64)
            digits[: len(part)] = to_digits(
                part, weight=own.weight, clamp=terms.clamp, levels=self._levels, rng=own.rng
            )
            digits[-len(end) :] = end
            yield self._coefficients(digits, tagger.tags(chunk, digits))

    def decode(self, chunks: Iterable[Integers], *, of: SealedSum, secret: SecretKey) -> OpenedSum:
        """See `Codec.decode`."""
        terms, clients = of.header.terms, of.header.clients
        tagger = Tagger(secret.tag, context=bound_to(terms, secret))
        mean = np.empty(terms.size, dtype=np.float32)
        genuine, ends = True, []
        for chunk, coefficients in enumerate(chunks):
            digits = self._digits(coefficients)
            tags = coefficients[-TAGS:] % TAG_MODULUS
            # No early end: how long it takes must not say which chunk was altered.
            genuine &= np.array_equal(tags, tagger.tags(chunk, digits))
            # A copy: a view would keep the chunk in memory.
            ends.append(digits[-self._trailer :].copy())
            part = mean[chunk * self.values : (chunk + 1) * self.values]
            part[:] = from_digits(
                digits[: len(part)], clients=len(clients), clamp=terms.clamp, levels=self._levels
            )
        # Nonces are fresh for each upload: chunks of different uploads have different trailers.
        genuine &= all(np.array_equal(end, ends[0]) for end in ends)
        trailer = Trailer.from_digits(ends[0], bits=self._profile.value_bits)
        if not (genuine and trailer.is_of(clients, terms=terms, secret=secret)):
            raise Tampered
        weight = integer_to_weight(trailer.weight)
        mean /= weight
        return OpenedSum(mean=mean, weight=weight, clients=clients)

    def _filled(self, values: int) -> int:
        """Coefficients that so many values and the trailer take."""
        return -(-(values + self._trailer) // self._profile.digits)

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
