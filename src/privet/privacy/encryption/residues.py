"""The arithmetic of encrypted sums, in numpy alone: no native parser sees what a client sent.

Real numbers become integers of a few bits (digits), digits lie in coefficients, and coefficients
and residues add up modulo t and q. The server adds residues and masked secrets. In a body stand the
chunks, 4096 residues of 60 bits each, packed in 7.5 bytes, then a nonce, then the secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.paged import paged_zeros
from privet.privacy.encryption.backend import DEGREE, MODULUS, Mask
from privet.privacy.encryption.errors import EncryptionError, Malformed, UploadRefused

Integers = NDArray[np.uint64]
Reals = NDArray[np.float32] | NDArray[np.float64]

WEIGHT_BITS = 47
"""A weight of 1 is 2^47: relative precision 2^-47, smallest weight 2^-47."""

_BLOCK = 1 << 15


def count_clipped(x: Reals, *, clamp: float) -> int:
    """How many values of `x`, shape (d,), lie beyond +-clamp.

    Raises EncryptionError when a value is not finite.
    """
    clipped = 0
    for block in _blocks(x):
        size = np.abs(block, dtype=np.float64)
        largest = size.max()
        if not largest < np.inf:  # false for NaN as well
            raise EncryptionError("the vector holds NaN or infinity: only finite values are sent")
        if largest > clamp:
            clipped += int(np.count_nonzero(size > clamp))
    return clipped


def to_digits(
    x: Reals, *, weight: float, clamp: float, levels: int, rng: np.random.Generator
) -> Integers:
    """weight * x, cut off at +-clamp before weighing, as integers 0 to 2 * levels, shape (d,).

    0 stands for -clamp, `levels` for zero. Rounding is stochastic: the expectation is exact to
    2^-24 of a level, the error below one level.
    """
    scaled = np.clip(x, -clamp, clamp, dtype=np.float64)
    scaled *= weight * levels / clamp
    scaled += levels
    # 24 bits of dither are enough, and float32 is quicker to draw.
    scaled += rng.random(len(x), dtype=np.float32)
    # Truncation is floor, nothing being negative; the clip catches what float64 rounds beyond 2L.
    integers = scaled.astype(np.int64)
    digits: Integers = np.clip(integers, 0, 2 * levels, out=integers).view(np.uint64)
    return digits


def from_digits(sums: Integers, *, clients: int, clamp: float, levels: int) -> NDArray[np.float64]:
    """The sums of weight * x behind sums of digits of `clients` clients."""
    signed = sums.astype(np.float64)
    signed -= clients * levels
    signed *= clamp / levels
    return signed


def weight_to_integer(weight: float) -> int:
    """A weight in (0, 1] as an integer 1 to 2^47; EncryptionError outside."""
    integer = round(weight * 2**WEIGHT_BITS) if 0 < weight <= 1 else 0
    if not integer:
        raise EncryptionError(f"weight = {weight}: allowed is 2^-{WEIGHT_BITS} to 1")
    return integer


def integer_to_weight(total: int) -> float:
    """The sum of weights behind a sum of their integers."""
    return float(total / 2**WEIGHT_BITS)


def split(integer: int, *, bits: int, count: int) -> list[int]:
    """`integer`, below 2^(bits * count), in `count` digits, the lowest first.

    >>> split(0x1234, bits=8, count=3)
    [52, 18, 0]
    """
    return [integer >> (bits * place) & (2**bits - 1) for place in range(count)]


def join(digits: Integers, *, bits: int) -> int:
    """The inverse of `split`; digits that hold sums carry over."""
    return sum(int(digit) << (bits * place) for place, digit in enumerate(digits))


def _blocks(x: Reals) -> Iterator[Reals]:
    # Blocks stay in the cache and keep the temporaries small.
    yield from (x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK))


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


C0_BYTES = int(PACKED_PER_COEFFICIENT * DEGREE)
NONCE_BYTES = 16
SECRET_BYTES = 2 * DEGREE
"""Of a masked secret: numbers of 16 bits, least byte first."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """The body of an upload or a sum, as views of its bytes."""

    packed: Bytes
    """Residues, shape (chunks, 30720)."""
    nonces: tuple[bytes, ...]
    """One for each upload, 16 bytes that no other has."""
    secret: Mask
    """The masked secret, or the sum of such."""


def read_frames(body: memoryview, *, chunks: int, clients: int) -> Frames:
    """Raises Malformed for another length or a residue that is not below q."""
    expected = chunks * C0_BYTES + clients * NONCE_BYTES + SECRET_BYTES
    if len(body) != expected:
        raise Malformed(f"the body has {len(body)} bytes, expected are {expected}")
    content = np.frombuffer(body, dtype=np.uint8)
    packed = content[: chunks * C0_BYTES].reshape(chunks, C0_BYTES)
    # Before anything is added: `add` needs summands below q, and an upload counts whole or not.
    if any(unpack(chunk).max() >= MODULUS for chunk in packed):
        raise Malformed("a residue is not below the modulus")
    nonces = content[chunks * C0_BYTES : -SECRET_BYTES].reshape(clients, NONCE_BYTES)
    secret = content[-SECRET_BYTES:].view("<u2")
    return Frames(packed, tuple(each.tobytes() for each in nonces), secret)


class ResidueSum:
    """A running sum of uploads: 32 kB a chunk, and 8 kB."""

    def __init__(self, chunks: int) -> None:
        self._total = paged_zeros((chunks, DEGREE), np.uint64)
        self._secret: Mask = np.zeros(DEGREE, dtype=np.uint16)
        self._nonces: list[bytes] = []

    def add(self, body: memoryview) -> None:
        """Add an upload; Malformed or UploadRefused leaves the sum as it was.

        Raises UploadRefused for an upload that was added before, under whatever name.
        """
        frames = read_frames(body, chunks=len(self._total), clients=1)
        if frames.nonces[0] in self._nonces:
            raise UploadRefused("the upload repeats one that is in the sum already")
        for total, chunk in zip(self._total, frames.packed, strict=True):
            add(total, unpack(chunk), modulus=MODULUS, out=total)
        self._secret += frames.secret
        self._nonces += frames.nonces

    def unmask(self, correction: Mask) -> None:
        """Add what takes the masks out of the sum of secrets, shape (4096,)."""
        self._secret += correction

    def body(self) -> Iterator[bytes]:
        """All frames: the sums of the residues, the nonces of all summands, the sum of secrets."""
        yield from map(pack, self._total)
        yield from self._nonces
        yield self._secret.astype("<u2", copy=False).tobytes()
