"""The arithmetic of encrypted sums, in numpy alone: no native parser sees what a client sent.

Real numbers become integers of a few bits (digits), digits lie in coefficients, and coefficients
add up modulo t, residues modulo q. What is sent of a residue are its upper 56 bits (`narrow`): 7
bytes, which add up modulo 2^56. The server adds those and masked secrets. In a body stand all
residues, then a nonce, then the secret, 4096 numbers of 11 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.paged import paged_zeros
from privet.privacy.encryption.backend import DEGREE, MODULUS, SECRET_BITS, Mask
from privet.privacy.encryption.errors import EncryptionError, Malformed, UploadRefused

Integers = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
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


_MODULUS_BITS = MODULUS.bit_length()
_FOLD = 2**_MODULUS_BITS - MODULUS
"""2^60 modulo q."""
SENT_BYTES = 7
"""Of a residue."""
_SENT_BITS = 8 * SENT_BYTES
_CUT = np.uint64(_MODULUS_BITS - _SENT_BITS)
# Products with _FOLD, which has 14 bits, must fit 64.
_HEAD = np.uint64(14)


def narrow(residues: Integers) -> Integers:
    """2^56 c / q, rounded, modulo 2^56, for every c below q: what is sent of c.

    Of c alone, so it tells no more than c. With a share of its own that makes c cover all 60 bits,
    as q does not, 4 bits are rounded away: an error of at most 8, and 1.01 more as the share is
    rounded down.
    """
    share = (residues >> _HEAD) * np.uint64(_FOLD) >> (np.uint64(_MODULUS_BITS) - _HEAD)
    share += residues
    share += np.uint64(1) << _CUT - np.uint64(1)
    share >>= _CUT
    share &= np.uint64(2**_SENT_BITS - 1)
    return share


def widen(sent: Integers) -> Integers:
    """The residues modulo q that sums of what is sent stand for; off by at most 1.01 more."""
    share = (sent >> _HEAD) * np.uint64(_FOLD) >> (np.uint64(_SENT_BITS) - _HEAD)
    residues: Integers = (sent << _CUT) - share
    return residues


def pack(sent: Integers) -> bytes:
    """`sent` modulo 2^56, shape (n,), in 7 n bytes, the least first."""
    words = sent.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    return words[:, :SENT_BYTES].tobytes()


def unpack(packed: Bytes) -> Integers:
    """The inverse of `pack`: any bytes are numbers below 2^56."""
    words = np.zeros((len(packed) // SENT_BYTES, 8), dtype=np.uint8)
    words[:, :SENT_BYTES] = packed.reshape(-1, SENT_BYTES)
    return words.view("<u8").reshape(-1)


def pack_secret(secret: Mask) -> bytes:
    """Numbers modulo 2^11, shape (4096,), in 5632 bytes."""
    bits = np.unpackbits(secret.astype("<u2").view(np.uint8), bitorder="little")
    return np.packbits(bits.reshape(-1, 16)[:, :SECRET_BITS], bitorder="little").tobytes()


def unpack_secret(packed: Bytes) -> Mask:
    """The inverse of `pack_secret`."""
    bits = np.zeros((DEGREE, 16), dtype=np.uint8)
    bits[:, :SECRET_BITS] = np.unpackbits(packed, bitorder="little").reshape(DEGREE, -1)
    return np.packbits(bits, bitorder="little").view("<u2")


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
    share = plaintext * np.uint64(_FOLD)
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


NONCE_BYTES = 16
SECRET_BYTES = SECRET_BITS * DEGREE // 8
"""Of a masked secret."""


@dataclass(frozen=True)
class Frames:
    """The body of an upload or a sum, as views of its bytes."""

    packed: Bytes
    """What is sent of the residues, 7 bytes each."""
    nonces: tuple[bytes, ...]
    """One for each upload, 16 bytes that no other has."""
    secret: Mask
    """The masked secret, or the sum of such, modulo 2^11."""

    def chunks(self) -> Iterator[Integers]:
        """The residues sent, 4096 at a time; of the last chunk, those that were filled."""
        size = SENT_BYTES * DEGREE
        for start in range(0, len(self.packed), size):
            yield unpack(self.packed[start : start + size])


def read_frames(body: memoryview, *, length: int, clients: int) -> Frames:
    """Raises Malformed for anything but `length` residues, `clients` nonces and a secret."""
    residues, nonces = length * SENT_BYTES, clients * NONCE_BYTES
    expected = residues + nonces + SECRET_BYTES
    if len(body) != expected:
        raise Malformed(f"the body has {len(body)} bytes, expected are {expected}")
    content = np.frombuffer(body, dtype=np.uint8)
    apart = content[residues:-SECRET_BYTES].reshape(clients, NONCE_BYTES)
    secret = unpack_secret(content[-SECRET_BYTES:])
    return Frames(content[:residues], tuple(each.tobytes() for each in apart), secret)


class ResidueSum:
    """A running sum of uploads of so many residues: 8 bytes for each, and 8 kB."""

    def __init__(self, length: int) -> None:
        self._total = paged_zeros((length,), np.uint64)
        self._secret: Mask = np.zeros(DEGREE, dtype=np.uint16)
        self._nonces: list[bytes] = []

    def add(self, body: memoryview) -> None:
        """Add an upload; Malformed or UploadRefused leaves the sum as it was.

        Raises UploadRefused for an upload that was added before, under whatever name.
        """
        frames = read_frames(body, length=len(self._total), clients=1)
        if frames.nonces[0] in self._nonces:
            raise UploadRefused("the upload repeats one that is in the sum already")
        for total, chunk in zip(self._chunks(), frames.chunks(), strict=True):
            total += chunk  # modulo 2^64, so modulo 2^56 as well
        self._secret += frames.secret
        self._nonces += frames.nonces

    def unmask(self, correction: Mask) -> None:
        """Add what takes the masks out of the sum of secrets, shape (4096,)."""
        self._secret += correction

    def body(self) -> Iterator[bytes]:
        """All frames: the sums of the residues, the nonces of all summands, the sum of secrets."""
        yield from map(pack, self._chunks())
        yield from self._nonces
        yield pack_secret(self._secret)

    def _chunks(self) -> Iterator[Integers]:
        for start in range(0, len(self._total), DEGREE):
            yield self._total[start : start + DEGREE]
