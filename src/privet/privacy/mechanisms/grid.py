"""Where noisy sums are released: on the integer multiples of a power of two.

A sum of floating-point numbers and Gaussian noise in floating point tell by their low bits what was
added to what (Mironov 2012; Jin et al. 2022, arXiv 2112.05307). Here the sum is rounded to integers
s, the noise z to integers as well, and s + round(z) = round(s + z) is released: the Gaussian
mechanism on s and, after it, a rounding that sees nothing else. What the rounding of the sum, and
its arithmetic before, can add to its sensitivity is taken off it beforehand (`Grid.scale`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from privet.errors import PrivacyError
from privet.privacy.mechanisms.noise import NoiseSource
from privet.privacy.mechanisms.plan import DpSgd

_FINENESS = 2.0**-16
_UNIT = 2.0**-53
"""The rounding error of float64, relative."""
_SMALLEST = 2.0**-900
_LARGEST = 2.0**48
"""The noise's standard deviation in steps: 12.5 of it and a sum of 8 times as much are exact."""


@dataclass(frozen=True)
class Grid:
    """The grid of one plan and so many coordinates.

    Sums are float64 tensors, of gradients clipped to L2 norm `plan.clip`, of at most
    `most_records` records, in any order. They are multiplied by `scale`, rounded to integers, get
    the integers of `noise`, and stand for their product with `step`.

    Guarantee: rounded sums of data sets that differ in one record are at most `plan.clip` apart.
    For exact sums S, S' of clipped gradients, computed ones T, T' and rounded ones R, R', in d
    coordinates, c being clip and a the part of it that is left, scale * step,

        |R - R'| <= a |S - S'| + a |T - S| + a |T' - S'| + |R - a T| + |R' - a T'|
                 <= a (c  +  2 gamma B c)  +  2 sqrt(d) step / 2   =   c

    In each coordinate rounding moves by half a step at most. A sum of B products in float64 is off
    by at most gamma times the sum of their absolute values, in whatever order and with or without
    fused operations; gamma = k u / (1 - k u), u = 2^-53, with k = B + 3 operations for each (Higham
    2002, section 3.1). Over all coordinates that is gamma * B * clip, as no gradient is longer than
    clip. Casacuberta et al. 2022 (arXiv 2207.10635) show what is lost where this is left out.
    """

    step: float
    """A power of two, at most 2^-16 plan.clip / sqrt(d)."""
    scale: float
    """So much less than 1 / step that all rounding has room: by 0.0015 %, more for huge batches."""
    std: float
    """That of the noise, noise_multiplier * plan.clip."""
    most_records: int
    """In a batch: over twice the expected ones, which Poisson sampling draws once in 1e2000."""

    @classmethod
    def of(cls, plan: DpSgd, coordinates: int) -> Self:
        """The grid on which a plan's sums in so many coordinates are released.

        PrivacyError where float64 has no room for it.
        """
        root = math.sqrt(max(1, coordinates))
        step = math.ldexp(1.0, math.frexp(_FINENESS * plan.clip / root)[1] - 1)
        most = 2 * math.ceil(plan.batch_size) + 4096
        std = plan.noise_multiplier * plan.clip
        fits = std / _LARGEST <= step and most * plan.clip / (8 * _LARGEST) <= step
        if not (fits and step > _SMALLEST):
            raise PrivacyError(
                f"clip = {plan.clip:g}, noise_multiplier = {plan.noise_multiplier:g} and batches "
                f"of {plan.batch_size:g} are more than float64 adds up for {coordinates:,} weights"
            )
        gamma = (most + 3) * _UNIT / (1 - (most + 3) * _UNIT)
        left = (1 - root * step / plan.clip) / (1 + 2 * gamma * most)
        return cls(step, left / step, std, most)

    def noise(self, source: NoiseSource, count: int) -> Tensor:
        """Integers of the noise, float64, shape (count,); zeros in a plan without noise.

        They are drawn on the CPU wherever they are added: of one seed everywhere the same.
        """
        if self.std == 0:
            return torch.zeros(count, dtype=torch.float64)
        return rounded(source.normal((count,), self.std).double().mul_(1 / self.step))

    def check(self, records: int) -> None:
        """PrivacyError when a batch of so many records is larger than the bound covers."""
        if records > self.most_records:
            raise PrivacyError(
                f"a batch of {records:,} records where the plan expects "
                f"{(self.most_records - 4096) // 2:,}"
            )


def rounded(values: Tensor) -> Tensor:
    """The float64 `values` rounded to integers, ties to even ones, in place."""
    if not values.is_cpu:
        return values.round_()
    np.rint(values.numpy(), out=values.numpy())  # twice as quick as torch's
    return values


def release(sums: Tensor, noise: Tensor, scale: float | Tensor) -> Tensor:
    """Turn sums into integers of their grid and add integers of noise, in place."""
    # Not rounded(sums + noise): ties go to even numbers, and which is even depends on the noise.
    return rounded(sums.mul_(scale)).add_(noise)
