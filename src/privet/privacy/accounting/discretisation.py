"""One step of the Poisson-sampled Gaussian mechanism as masses on a grid of privacy losses.

"Connect the Dots" (Doroshenko, Ghazi, Kamath, Kumar & Manurangsi 2022, arXiv 2207.04380, Algorithm
1): the hockey-stick divergence D(l) = max over events E of P(E) - exp(l) Q(E) is kept at the grid
points and made linear in exp(l) between them. It is convex in exp(l), so what results is nowhere
below the mechanism's, and every epsilon computed from it is an upper bound.

dp-accounting computes the same masses, partly in scalar Python and as second differences of
divergences near 1. Here we keep what D(l) exceeds max(0, 1 - exp(l)) by, the divergence of no
mechanism at all: it is small where little happens, so no digits are lost, and both directions
follow from one evaluation. The tests hold the masses against dp-accounting's.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from privet.errors import PrivacyError

SMALLEST_RATE = 1e-50
"""Rarer sampling has to be counted as this rare, which is pessimistic."""

_LARGEST = 700.0

_Floats = NDArray[np.float64]


class Dots(NamedTuple):
    """Mass `masses[i]` at loss (lower + i) * grid, and the mass of an infinite loss."""

    lower: int
    masses: _Floats
    infinity: float


def sampled_gaussian(
    *, noise_multiplier: float, sampling_rate: float, grid: float
) -> tuple[Dots, Dots]:
    """The losses of removing and of adding one record; the same object twice at a rate of 1.

    Guarantee, up to rounding (1e-15 / grid in a mass): the hockey-stick divergence of either is the
    mechanism's at every multiple of `grid` that it covers, and at least the mechanism's elsewhere.

    Raises PrivacyError for a rate outside [1e-50, 1] and for a noise multiplier that is not
    positive or so small (about 0.02) that exp(loss) would overflow.
    """
    sigma, rate = noise_multiplier, sampling_rate
    if not (sigma > 0 and _largest_loss(sigma) < _LARGEST and SMALLEST_RATE <= rate <= 1):
        raise PrivacyError(f"no losses for noise multiplier {sigma} and sampling rate {rate}")
    lower, upper = _covered(sigma, rate, grid)
    losses = np.arange(lower, upper + 1, dtype=np.float64) * grid
    excess = _excess(losses, sigma, rate)
    remove = _connected(lower, excess, grid)
    if rate == 1:
        return remove, remove
    # Adding a record swaps P and Q, and with them D(l) and exp(l) D(-l).
    return remove, _connected(-upper, (np.exp(-losses) * excess)[::-1], grid)


def _largest_loss(sigma: float) -> float:
    """The loss without sampling when the noise is `_reach` standard deviations off."""
    return (0.5 / sigma + _reach()) / sigma


@cache
def _reach() -> float:
    """How many standard deviations of noise the grid covers on either side, as in dp-accounting."""
    return -float(scipy.special.ndtri(0.5 * math.exp(-50)))


def _covered(sigma: float, rate: float, grid: float) -> tuple[int, int]:
    """Grid indices around the losses of removing that noise within `_reach` causes, and around 0.

    Any range around 0 would be valid: losses below it are moved up, those above it to infinity.
    """
    plain = np.array([-1, 1]) * _largest_loss(sigma)
    with np.errstate(divide="ignore"):  # log(0) at a rate of 1
        low, high = np.logaddexp(np.log1p(-rate), np.log(rate) + plain) / grid
    return min(math.floor(low), 0), max(math.ceil(high), 0)


def _excess(losses: _Floats, sigma: float, rate: float) -> _Floats:
    """D(l) - max(0, 1 - exp(l)) of removing a record, for each l in `losses`.

    Sampling at `rate` makes the divergence `rate` times that at the loss without sampling (Balle,
    Barthe & Gaboardi 2018, arXiv 1807.01647, Theorem 2). Without it, D(l) is as in Balle & Wang
    2018 (arXiv 1805.06530, Theorem 8) for l >= 0, and the excess at -l is exp(-l) times that at l.
    """
    # The cut, against overflow, can only enlarge the excess, which falls on both sides of 0.
    plain = np.clip(_unsampled(losses, rate), -_LARGEST, _LARGEST)
    size = np.abs(plain)
    below = scipy.special.ndtr(0.5 / sigma - size * sigma)
    beyond = scipy.special.ndtr(-0.5 / sigma - size * sigma)
    unsampled: _Floats = np.maximum(below - np.exp(size) * beyond, 0.0)
    return rate * np.exp(np.minimum(plain, 0.0)) * unsampled


def _unsampled(losses: _Floats, rate: float) -> _Floats:
    """The m with exp(l) = 1 - rate + rate exp(m) for each l in `losses`; -inf where there is none.

    Written so that neither a small rate nor a large loss costs digits, and a rate of 1 changes
    nothing at all.
    """
    with np.errstate(divide="ignore"):
        return losses + np.log1p(np.maximum((rate - 1) / rate * np.expm1(-losses), -1.0))


def _connected(lower: int, excess: _Floats, grid: float) -> Dots:
    """The masses whose divergences at the grid points exceed max(0, 1 - exp(l)) by `excess`.

    Without any excess all mass is at 0. The excess moves it to both sides by its second difference.
    """
    rises = np.diff(excess)
    slopes = rises / math.expm1(grid)
    masses = np.zeros(excess.size)
    masses[-lower] = 1.0
    masses[0] -= excess[0]
    masses[:-1] += slopes
    masses[1:] -= slopes + rises
    # What rounding leaves below 0 is raised to 0, which can only enlarge a divergence.
    return Dots(lower, np.maximum(masses, 0.0), float(excess[-1]))
