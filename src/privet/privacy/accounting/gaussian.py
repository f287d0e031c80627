"""Unsampled Gaussian mechanisms: together they are one Gaussian mechanism, so epsilon is exact.

Steps with noise multipliers s_1, s_2, ... in which every record takes part compose to exactly the
Gaussian mechanism with mu = sqrt(sum 1 / s_i^2) (Dong, Roth & Su 2022, arXiv 1905.02383, Corollary
3.3), whose delta is a closed form (Balle & Wang 2018, arXiv 1805.06530, Theorem 8). This holds for
these alone: of a sampled mechanism, Gaussian DP is an approximation that understates epsilon.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import scipy

from privet.privacy.accounting.events import Segment

LARGEST_NOISE = 1e50
"""More noise is counted as this much, which is pessimistic and does not underflow."""

_ROUNDED_UP = 1e-12
"""So that whoever checks in floats finds nothing below the exact figure either."""

_ULP = sys.float_info.epsilon


def folded(parts: Iterable[Segment]) -> tuple[Segment, ...]:
    """The sampled ones of `parts` as they are, and last all unsampled ones as one Gaussian step.

    The noise multiplier of that step is rounded down; it is 0 where a part has no noise. It does
    not depend on the order of `parts`.
    """
    sampled, inverse_variances = [], []
    for part in parts:
        if part.sampling_rate < 1:
            sampled.append(part)
        else:
            inverse_variances.append(_inverse_variance(part))
    if not inverse_variances:
        return tuple(sampled)
    mu = math.sqrt(math.fsum(inverse_variances)) * (1 + 4 * _ULP)
    return (*sampled, Segment(1 / mu, 1.0, 1))


def _inverse_variance(part: Segment) -> float:
    # A noise multiplier of 0 has no inverse, and that of 1e-200 overflows when squared.
    inverse = 1 / min(part.noise_multiplier, LARGEST_NOISE) if part.noise_multiplier else math.inf
    return part.steps * (inverse * inverse)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Delta of mu-Gaussian DP at `epsilon` >= 0, never below the true one.

    delta = Phi(a) - exp(epsilon) Phi(b) with a = mu/2 - epsilon/mu and b = -mu/2 - epsilon/mu. The
    second term is phi(a) R(-b) with Mills' ratio R = Phi(-.) / phi(.), which neither overflows nor
    underflows. Each is off by at most 4 + b^2 roundings, a few times over, and that is added.
    """
    a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    margin = 4 * _ULP * (4 + b * b)
    mills = math.sqrt(math.pi / 2) * scipy.special.erfcx(-b / math.sqrt(2))
    second = math.exp(-a * a / 2) / math.sqrt(2 * math.pi) * mills
    return float(scipy.special.ndtr(a) * (1 + margin) - second * (1 - margin))


def gaussian_epsilon(noise_multiplier: float, delta: float, *, largest: float) -> float:
    """Epsilon of one Gaussian step at `delta` in [1e-12, 1), rounded up; infinity above `largest`.

    At most a relative 1e-9 above the exact one where that is at least 1e-6.
    """
    mu = 1 / noise_multiplier * (1 + _ULP) if noise_multiplier else math.inf
    if mu > largest or gaussian_delta(mu, largest) > delta:
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # Above mu^2/2 + 8 mu, delta is below Phi(-8) < 1e-15.
    most = min(mu * (mu / 2 + 8), largest)
    # brentq insists on an absolute tolerance; this one leaves the relative one to decide.
    epsilon = scipy.optimize.brentq(
        lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, most, xtol=1e-300, rtol=4 * _ULP
    )
    step = _ROUNDED_UP
    epsilon *= 1 + step
    # What brentq returns may lie on the wrong side of the root.
    while gaussian_delta(mu, epsilon) > delta:
        epsilon, step = epsilon * (1 + step), 2 * step
    return float(epsilon)
