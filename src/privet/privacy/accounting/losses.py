"""Privacy loss distributions of (sampled) Gaussian steps on one grid, composed with cached work.

One step is discretised pessimistically, so every epsilon is an upper bound.
Composition is the FFT of Koskela et al. 2020 (arXiv 1906.03049) with dp-accounting's truncation
rule; it is done here because what does not depend on the number of steps is then computed once per
mechanism, which makes one more round several times cheaper. The tests hold the results against
dp-accounting's own PLDAccountant.

One step of the Poisson-sampled Gaussian mechanism becomes masses on the grid by "Connect the Dots"
(Doroshenko, Ghazi, Kamath, Kumar & Manurangsi 2022, arXiv 2207.04380, Algorithm
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
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment

SMALLEST_RATE = 1e-50
"""Rarer sampling has to be counted as this rare, which is pessimistic."""

_LARGEST = 700.0  # exp of it is still a float64

_Floats = NDArray[np.float64]


class DiscreteLosses(NamedTuple):
    """Mass `masses[i]` at loss (lower + i) * grid, and the mass of an infinite loss."""

    lower: int
    masses: _Floats
    infinity: float


def sampled_gaussian(
    *, noise_multiplier: float, sampling_rate: float, grid: float
) -> tuple[DiscreteLosses, DiscreteLosses]:
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


def _connected(lower: int, excess: _Floats, grid: float) -> DiscreteLosses:
    """The masses whose divergences at the grid points exceed max(0, 1 - exp(l)) by `excess`.

    Without any excess all mass is at 0. The excess moves it to both sides by its second difference.
    """
    rises = np.diff(excess)
    slopes = rises / math.expm1(grid)
    masses = np.zeros(excess.size)
    masses[-lower] = 1.0  # index of loss 0
    masses[0] -= excess[0]
    masses[:-1] += slopes
    masses[1:] -= slopes + rises
    # What rounding leaves below 0 is raised to 0, which can only enlarge a divergence.
    return DiscreteLosses(lower, np.maximum(masses, 0.0), float(excess[-1]))


GRID = 1e-3
"""Distance of two neighbouring privacy losses; all distributions that are composed share it."""

LARGEST_LOSS = 1000.0
"""Distributions that are wider are not computed: the loss is reported as unbounded."""

_LARGEST_STEP = 400.0
_LARGEST_NOISE = 1e50

_TAIL = 1e-15
_FINEST = 200


@dataclass(frozen=True, eq=False)
class Losses:
    """The loss of one direction (a record removed, or added), as masses on a grid.

    `masses[i]` sits at loss (lower + i) * grid; `infinity` is the mass of an infinite loss.
    """

    lower: int
    masses: _Floats
    infinity: float

    def compose(self, other: Losses) -> Losses:
        """The loss of both mechanisms, with tails of 1e-15 moved up (pessimistic)."""
        # The FFT leaves masses of about -1e-17; raising them to 0 is pessimistic.
        masses = np.maximum(scipy.signal.fftconvolve(self.masses, other.masses), 0.0)
        # Infinite where either loss is.
        infinity = self.infinity + other.infinity - self.infinity * other.infinity
        return _cut(Losses(self.lower + other.lower, masses, infinity))

    def epsilon(self, delta: float) -> float:
        """The least epsilon >= 0 whose hockey-stick divergence is at most `delta`."""
        if self.infinity > delta:
            return math.inf
        first = max(0, 1 - self.lower)
        masses = self.masses[first:]
        if not masses.size:
            return 0.0
        upper, scaled = _suffix_sums(masses, GRID)
        upper = upper + self.infinity
        # At loss k the divergence is what lies above k; it falls to delta between two grid points.
        above = np.append(upper[1:], self.infinity) - np.append(scaled[1:], 0.0) * math.exp(-GRID)
        k = int(np.argmax(above <= delta))
        loss = (self.lower + first + k) * GRID
        if upper[k] <= delta:
            return max(0.0, loss - GRID)
        return max(0.0, loss + math.log((upper[k] - delta) / scaled[k]))


@dataclass(frozen=True, eq=False)
class Pair:
    """The losses of removing and of adding one record; the same object twice when symmetric."""

    remove: Losses
    add: Losses

    def compose(self, other: Pair) -> Pair | None:
        """Both mechanisms one after the other; None when the loss is beyond LARGEST_LOSS."""
        longest = max(self.remove.masses.size, self.add.masses.size)
        longest += max(other.remove.masses.size, other.add.masses.size)
        if longest * GRID > LARGEST_LOSS:
            return None
        remove = self.remove.compose(other.remove)
        symmetric = self.remove is self.add and other.remove is other.add
        return Pair(remove, remove if symmetric else self.add.compose(other.add))

    def epsilon(self, delta: float) -> float:
        """The larger epsilon of the two directions."""
        epsilon = self.remove.epsilon(delta)
        return epsilon if self.remove is self.add else max(epsilon, self.add.epsilon(delta))


NOTHING = Pair(*[Losses(0, np.ones(1), 0.0)] * 2)
"""The loss of no mechanism at all."""


@lru_cache(maxsize=32)
def losses_of(segment: Segment) -> Pair | None:
    """The losses of a segment on GRID; None when unbounded (no noise) or beyond LARGEST_LOSS."""
    # What would overflow is counted as a little less noise, or sampling a little less rare.
    sigma = min(segment.noise_multiplier, _LARGEST_NOISE)
    rate, steps = max(segment.sampling_rate, SMALLEST_RATE), segment.steps
    if sigma <= 0 or (0.5 / sigma + 10) / sigma > _LARGEST_STEP:
        return None
    step = _step(sigma, rate, _refinement(sigma, rate))
    remove = step.remove.repeated(steps)
    add = remove if step.add is step.remove else step.add.repeated(steps)
    return Pair(remove, add) if remove and add else None


@dataclass(frozen=True, eq=False)
class _Step:
    """One direction of one step on a grid `fine` times finer, with what composing it T-fold needs.

    `orders` and `log_moments` are points of its log moment generating function, in grid indices.
    """

    losses: Losses
    fine: int
    orders: _Floats
    log_moments: _Floats

    def repeated(self, steps: int) -> Losses | None:
        """`steps` of it composed, on GRID."""
        low, high = self._bounds(steps)
        if (high - low) * GRID / self.fine > LARGEST_LOSS:
            return None
        size = scipy.fft.next_fast_len(max(high - low + 1, self.losses.masses.size), real=True)
        # Circular convolution of a window: what wraps around lies outside the Chernoff bounds and
        # has mass of at most _TAIL, which is added to the infinite loss below.
        spectrum = scipy.fft.rfft(self.losses.masses, size) ** steps
        masses = np.roll(scipy.fft.irfft(spectrum, size), -low)[: high - low + 1]
        # 1 - (1 - p)^T by expm1 and log1p: p may be far below the spacing of floats at 1.
        infinity = _TAIL - math.expm1(steps * math.log1p(-self.losses.infinity))
        whole = Losses(self.losses.lower * steps + low, np.maximum(masses, 0.0), infinity)
        return _coarsened(_cut(whole), self.fine)

    def _bounds(self, steps: int) -> tuple[int, int]:
        """Indices outside which the T-fold sum has mass at most _TAIL (Chernoff)."""
        bounds = (steps * self.log_moments + math.log(2 / _TAIL)) / self.orders
        full = (self.losses.masses.size - 1) * steps
        high = min(full, math.ceil(bounds[self.orders > 0].min()))
        return max(0, math.floor(bounds[self.orders < 0].max())), max(high, 0)


@dataclass(frozen=True, eq=False)
class _Steps:
    remove: _Step
    add: _Step


@lru_cache(maxsize=64)
def _step(sigma: float, rate: float, fine: int) -> _Steps:
    remove, add = sampled_gaussian(noise_multiplier=sigma, sampling_rate=rate, grid=GRID / fine)
    removal = _prepared(Losses(*remove), fine)
    return _Steps(removal, removal if add is remove else _prepared(Losses(*add), fine))


def _prepared(losses: Losses, fine: int) -> _Step:
    powers = np.arange(1, 21) / losses.masses.size
    log_moments = [_log_moments(losses.masses, sign) for sign in (-1, 1)]
    return _Step(losses, fine, np.concatenate([-powers, powers]), np.concatenate(log_moments))


def _log_moments(masses: _Floats, sign: int) -> _Floats:
    """log sum_i masses[i] exp(sign k i / n) for k = 1 ... 20."""
    tilt = np.exp(sign / masses.size * np.arange(masses.size))
    tilted, moments = masses, []
    for _ in range(20):
        tilted = tilted * tilt
        moments.append(tilted.sum())
    return np.log(moments)


def _refinement(sigma: float, rate: float) -> int:
    """How much finer than GRID one step must be so that T-fold rounding stays below 0.1 %.

    Rounding to a grid of width h adds about h^2 / 12 to the variance s^2 of one step's loss, which
    composition multiplies as it does s^2. So h <= s / 12, where s is bounded by the chi-square
    distance of the mixture, q sqrt(exp(1 / sigma^2) - 1).
    """
    exponent = min(1 / sigma**2, 50.0)
    deviation = rate * math.sqrt(math.expm1(exponent))
    return max(1, min(_FINEST, math.ceil(12 * GRID / deviation)))


def _coarsened(losses: Losses, fine: int) -> Losses:
    """The same on a grid `fine` times coarser, pessimistically.

    Each mass is split between its two neighbours so that the mass and its mean of exp(-loss) are
    kept ("Connect the Dots" for atoms): a spread of the likelihood ratio, which dominates.
    """
    if fine == 1:
        return losses
    lower, offset = divmod(losses.lower, fine)
    masses = np.pad(losses.masses, (offset, -(losses.masses.size + offset) % fine))
    rows = masses.reshape(-1, fine)
    upward = np.expm1(-GRID / fine * np.arange(fine)) / math.expm1(-GRID)
    coarse = np.zeros(len(rows) + 1)
    coarse[:-1] += rows @ (1 - upward)
    coarse[1:] += rows @ upward
    return Losses(lower, coarse, losses.infinity)


def _cut(losses: Losses) -> Losses:
    """Move the lowest mass of _TAIL / 2 up to what is kept, the highest to infinity."""
    masses = losses.masses
    from_below, from_above = np.cumsum(masses), np.cumsum(masses[::-1])
    left = min(int(np.searchsorted(from_below, _TAIL / 2, side="right")), masses.size - 1)
    right = masses.size - int(np.searchsorted(from_above, _TAIL / 2, side="right"))
    right = max(right, left + 1)
    kept = masses[left:right].copy()
    kept[0] += from_below[left - 1] if left else 0.0
    beyond = from_above[masses.size - right - 1] if right < masses.size else 0.0
    return Losses(losses.lower + left, kept, losses.infinity + float(beyond))


def _suffix_sums(masses: _Floats, grid: float) -> tuple[_Floats, _Floats]:
    """For each k: the mass from k on, and that mass weighted by exp(-(loss - loss_k))."""
    plain = np.cumsum(masses[::-1])[::-1]
    weighted = scipy.signal.lfilter([1.0], [1.0, -math.exp(-grid)], masses[::-1])[::-1]
    return plain, weighted
