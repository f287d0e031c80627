"""What charged mechanisms leave to any attack: all that they promise, at many deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privet.privacy.accounting.segments import Segment
from privet.privacy.audit.sightings import Floats
from privet.privacy.audit.two_sided import Errors
from privet.privacy.ledger.composition import epsilon_of
from privet.simulations.audit.deep.record import Allowed

CERTAINTY = 0.99
"""Confidence of the two error rates that are held against all that the claim allows."""

_DELTAS = np.concatenate([np.logspace(-10, -2, 81), np.linspace(0.02, 0.98, 49)])
_DIGITS = 6


@dataclass(frozen=True)
class Profile:
    """Every (epsilon, delta) that mechanisms promise together, at a few deltas."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, parts: Sequence[Segment]) -> Profile:
        """Of the (sampled) Gaussian mechanisms `parts`, composed."""
        return cls(tuple((epsilon_of(parts, delta=float(d)), float(d)) for d in _DELTAS))

    def allows(self, errors: Errors) -> bool:
        """Whether the errors' rates are possible at all (Kairouz, Oh & Viswanath 2015).

        For mechanisms that keep the promise, the answer is no with probability 1 % at most.
        """
        false_positive, false_negative = errors.upper(CERTAINTY)
        return 1 - false_negative <= self.largest(false_positive)

    def largest(self, false_positive: float) -> float:
        """The largest true-positive rate at a false-positive rate above 0."""
        found = 1.0
        for epsilon, delta in self.points:
            if math.isfinite(epsilon):
                one = math.exp(epsilon) * false_positive + delta
                other = 1 - (1 - false_positive - delta) * math.exp(-epsilon)
                found = min(found, one, other)
        return found

    def curve(self) -> Allowed:
        """`largest`, to draw."""
        rates = np.concatenate([np.logspace(-4, 0, 121), np.linspace(0.01, 1, 100)])
        rates = np.unique(rates.round(_DIGITS))
        allowed = np.array([self.largest(float(rate)) for rate in rates])
        return Allowed(rounded(rates), rounded(allowed))


def rounded(values: Floats) -> tuple[float, ...]:
    """Rates as a report keeps them."""
    return tuple(round(float(value), _DIGITS) for value in values)
