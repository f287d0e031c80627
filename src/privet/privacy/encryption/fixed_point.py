"""Real numbers as integers of a few bits, and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from privet.privacy.encryption.errors import EncryptionError

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
        if not largest < np.inf:
            raise EncryptionError("the vector holds NaN or infinity: only finite values are sent")
        if largest > clamp:
            clipped += int(np.count_nonzero(size > clamp))
    return clipped


def to_digits(
    x: Reals, *, weight: float, clamp: float, levels: int, rng: np.random.Generator
) -> Integers:
    """weight * x, cut off at +-clamp before weighing, as integers 0 to 2 * levels, shape (d,).

    0 stands for -clamp, `levels` for zero. Rounding is stochastic: the expectation is exact up to
    float64, the error below one level.
    """
    scaled = np.clip(x, -clamp, clamp, dtype=np.float64)
    scaled *= weight * levels / clamp
    scaled += levels
    scaled += rng.random(len(x), dtype=np.float32)
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
