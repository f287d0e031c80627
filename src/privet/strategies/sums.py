"""Running weighted sums: memory for one vector, however many updates arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from privet.paged import paged_zeros
from privet.strategies.strategy import Vector

_BLOCK = 1 << 16


def blocks(size: int, length: int = _BLOCK) -> Iterator[slice]:
    """Consecutive slices of at most `length` that cover range(size)."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


class WeightedSum:
    """The sum of weight * vector, and of the weights.

    Kept in float64: after n float32 updates the relative error is n * 2^-53 and the result is,
    rounded to float32, that of exact arithmetic. It costs 8 bytes a parameter, once, on disk where
    the model is large; products are formed block by block so that no second vector of float64
    appears.
    """

    def __init__(self, size: int) -> None:
        self.vector = paged_zeros(size, np.float64)
        self.weight = 0.0

    def add(self, vector: Vector, weight: float = 1.0) -> None:
        """Add weight * vector, shape (size,)."""
        factor = np.float64(weight)  # a Python float would leave the product in float32
        for block in blocks(len(self.vector)):
            self.vector[block] += factor * vector[block]
        self.weight += weight

    def over(self, divisor: float) -> Vector:
        """The sum divided by `divisor`, rounded once to float32."""
        quotient: Vector = paged_zeros(self.vector.shape, np.float32)
        np.divide(self.vector, divisor, out=quotient, casting="same_kind")
        return quotient
