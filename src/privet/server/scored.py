"""Figures of a score out of noised counts by class, each with an interval that includes the noise.

Counts are of records in equal bins of a probability from 0 to 1, by true class, each with Gaussian
noise of one known deviation. An interval holds the values that the counts do not rule out at 95 %
(Fieller 1954: what the value would make zero is compared with its own deviation), for the records
that were counted. A score is known by its bin: pairs within one count half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_QUANTILE = 1.959963984540054
"""Of the normal distribution, for 95 %."""
_STEPS = 4001
"""Of a grid of values between 0 and 1."""


@dataclass(frozen=True)
class WithInterval:
    """A figure between 0 and 1, and what it may be as well."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NoisedScores:
    """Counts (bins,) of records of the class and of others, and the deviation of each's noise."""

    of_class: Sequence[float]
    of_others: Sequence[float]
    noise: float

    def auc(self) -> WithInterval:
        """How often a record of the class scores above another one, ties half."""
        above, below = np.array(self.of_class), np.array(self.of_others)
        bins = len(above)
        # Row: bin of the class; column: bin of the others.
        wins = np.tril(np.ones((bins, bins)), -1) + 0.5 * np.eye(bins)
        values = np.linspace(0, 1, _STEPS)
        gap = above @ wins @ below - values * above.sum() * below.sum()
        variance = self._variance(wins, above, below, values)
        part = float(above @ wins @ below)
        return _interval(part, float(above.sum() * below.sum()), gap, variance, values)

    def _variance(self, wins: Floats, above: Floats, below: Floats, values: Floats) -> Floats:
        """Of the gap, unbiased: the noise of the counts is in its squares once too often."""
        square = self.noise**2
        rows, columns = wins @ below, above @ wins
        of_rows = _squares(rows, np.full(len(rows), below.sum()), values)
        of_columns = _squares(columns, np.full(len(rows), above.sum()), values)
        of_all = _squares(wins.ravel(), np.ones(wins.size), values)
        found: Floats = square * (of_rows + of_columns) - square**2 * of_all
        # It is no smaller than what the noise of both counts together makes.
        return np.maximum(found, square**2 * of_all)

    def accuracy(self) -> WithInterval:
        """Share of records whose likelier class is theirs."""
        half = len(self.of_class) // 2
        right = np.repeat([0.0, 1.0], [half, len(self.of_class) - half])
        return self._share(np.concatenate([right, 1 - right]))

    def recall(self) -> WithInterval:
        """Share of the class that is found."""
        half = len(self.of_class) // 2
        found = np.repeat([0.0, 1.0], [half, len(self.of_class) - half])
        return self._share(found, of=np.array(self.of_class))

    def calibration(self) -> WithInterval:
        """Mean distance of probability and share of the class over bins.

        The interval holds at 95 % or more: every bin's own is added up.
        """
        bins = len(self.of_class)
        said = (np.arange(bins) + 0.5) / bins
        gaps = (1 - said) * np.array(self.of_class) - said * np.array(self.of_others)
        noise = self.noise * np.sqrt((1 - said) ** 2 + said**2)
        total = sum(self.of_class) + sum(self.of_others)
        most = _QUANTILE * noise * math.sqrt(1 + 2 * math.log(bins))
        size = np.abs(gaps)
        # Noise alone makes every gap larger: its square is taken off.
        likely = np.sqrt(np.maximum(gaps**2 - noise**2, 0))
        sums = likely.sum(), np.maximum(size - most, 0).sum(), (size + most).sum()
        value, low, high = (float(np.clip(each / max(total, 1.0), 0, 1)) for each in sums)
        return WithInterval(value, low, high)

    def _share(self, weights: Floats, of: Floats | None = None) -> WithInterval:
        counts = np.concatenate([self.of_class, self.of_others]) if of is None else of
        values = np.linspace(0, 1, _STEPS)
        gap = weights @ counts - values * counts.sum()
        variance = self.noise**2 * _squares(weights, np.ones(len(weights)), values)
        return _interval(float(weights @ counts), float(counts.sum()), gap, variance, values)

    def confusion(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Counts by true class, others first, and predicted class; none below 0."""
        half = len(self.of_class) // 2
        others, own = np.array(self.of_others), np.array(self.of_class)
        rows = ((each[:half].sum(), each[half:].sum()) for each in (others, own))
        first, second = (tuple(max(0.0, float(n)) for n in row) for row in rows)
        return (first[0], first[1]), (second[0], second[1])

    def figures(self) -> dict[str, WithInterval]:
        """By name, as of test records."""
        return {
            "auc": self.auc(),
            "accuracy": self.accuracy(),
            "recall": self.recall(),
            "ece": self.calibration(),
        }


def _squares(a: Floats, b: Floats, values: Floats) -> Floats:
    """Sum of squares of a - v b, for each value v."""
    found: Floats = (a @ a) - 2 * values * (a @ b) + values**2 * (b @ b)
    return found


def _interval(
    part: float, whole: float, gap: Floats, variance: Floats, values: Floats
) -> WithInterval:
    """All values whose gap is within its own noise; all there are where noise is everything."""
    held = values[gap**2 <= _QUANTILE**2 * variance]
    value = float(np.clip(part / whole, 0, 1)) if whole > 0 else 0.5
    if not len(held):
        exact = not variance.any()
        return WithInterval(value, value, value) if exact else WithInterval(value, 0.0, 1.0)
    return WithInterval(value, min(value, float(held[0])), max(value, float(held[-1])))
