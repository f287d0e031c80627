"""Privacy loss distributions of (sampled) Gaussian steps on one grid, composed with cached work.

One step is discretised pessimistically: "Connect the Dots" (Doroshenko, Ghazi, Kamath, Kumar &
Manurangsi 2022, arXiv 2207.04380, Algorithm 1). The hockey-stick divergence D(l) = max over events
E of P(E) - exp(l) Q(E) is kept at the grid points and made linear in exp(l) between them. It is
convex in exp(l), so what results is nowhere below the mechanism's. Steps are composed by FFT
(Koskela et al. 2020, arXiv 1906.03049); what does not depend on their number is computed once per
mechanism. The tests hold masses and results against dp-accounting's.

Every epsilon is an upper bound, floating-point arithmetic included:

- A mass of one step is raised by a bound of its own rounding error (`_excess`, `_connected`).
- What a convolution may lose is carried along as `Losses.error` and charged to delta. That is the
  rounding of the FFT, at most log2(size) times about 7 roundings (Higham 2002, Accuracy and
  Stability of Numerical Algorithms, Theorem 24.2; `_fft_error`), taken to a power (`_power_error`),
  and the mass outside the window that is kept (Chernoff; Koskela et al. 2021, arXiv 2102.12412).
- Rounding is relative to the largest mass, and grows with the number of steps: at 10^4 steps it
  is of the order of 1e-9, which would drown a smaller delta. Where it does, the same composition is
  done on tilted masses, m(l) exp(tilt l), whose bulk lies where m has its tail (Wilson & Keich
  2017, Accurate small tail probabilities of sums of iid lattice-valued random variables via FFT).
  The error is then small against the tail: what is missing, of tilted mass e, adds to delta at most
  e max over l > epsilon of exp(-tilt l) (1 - exp(epsilon - l)) (`_largest_share`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment
from privet.privacy.accounting.gaussian import LARGEST_NOISE, gaussian_epsilon

SMALLEST_RATE = 1e-50
"""Rarer sampling has to be counted as this rare, which is pessimistic."""

_LARGEST = 700.0  # exp of it is still a float64

_Floats = NDArray[np.float64]


_ULP = sys.float_info.epsilon
"""Twice the largest relative error of one rounding."""


class DiscreteLosses(NamedTuple):
    """Mass `masses[i]` at loss (lower + i) * grid, and the mass of an infinite loss.

    Rounding has lost at most `rounding[i]` of each, the last being that of `infinity`.
    """

    lower: int
    masses: _Floats
    infinity: float
    rounding: _Floats


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
    excess, rounding = _excess(losses, sigma, rate)
    remove = _connected(lower, excess, rounding, grid)
    if rate == 1:
        return remove, remove
    # Adding a record swaps P and Q, and with them D(l) and exp(l) D(-l).
    swap = np.exp(-losses)
    return remove, _connected(-upper, (swap * excess)[::-1], (swap * rounding)[::-1], grid)


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


def _excess(losses: _Floats, sigma: float, rate: float) -> tuple[_Floats, _Floats]:
    """D(l) - max(0, 1 - exp(l)) of removing a record, for each l in `losses`, and its rounding.

    Sampling at `rate` makes the divergence `rate` times that at the loss without sampling (Balle,
    Barthe & Gaboardi 2018, arXiv 1807.01647, Theorem 2). Without it, D(l) is as in Balle & Wang
    2018 (arXiv 1805.06530, Theorem 8) for l >= 0, and the excess at -l is exp(-l) times that at l.

    An argument x of Phi is off by x roundings, hence Phi(-x) by a relative x^2 of them; the loss
    without sampling, m, by exp(l - m) of them, which moves the excess by Phi times as much.
    """
    # The cut, against overflow, can only enlarge the excess, which falls on both sides of 0.
    plain = np.clip(_unsampled(losses, rate), -_LARGEST, _LARGEST)
    size = np.abs(plain)
    below = scipy.special.ndtr(0.5 / sigma - size * sigma)
    beyond = scipy.special.ndtr(-0.5 / sigma - size * sigma)
    unsampled: _Floats = np.maximum(below - np.exp(size) * beyond, 0.0)
    shrunk = rate * np.exp(np.minimum(plain, 0.0))
    roundings = 16 + 4 * np.square(0.5 / sigma + size * sigma) + 4 * size
    if rate < 1:
        roundings += 4 * np.exp(np.minimum(losses - plain, _LARGEST))
    # Both lie in [0, rate (2 Phi(1 / (2 sigma)) - 1)].
    most = 0.4 * rate / sigma
    rounding = np.minimum(_ULP * roundings * shrunk * below, most)
    return np.minimum(shrunk * unsampled, most), rounding


def _unsampled(losses: _Floats, rate: float) -> _Floats:
    """The m with exp(l) = 1 - rate + rate exp(m) for each l in `losses`; -inf where there is none.

    Written so that neither a small rate nor a large loss costs digits, and a rate of 1 changes
    nothing at all.
    """
    with np.errstate(divide="ignore"):
        return losses + np.log1p(np.maximum((rate - 1) / rate * np.expm1(-losses), -1.0))


def _connected(lower: int, excess: _Floats, rounding: _Floats, grid: float) -> DiscreteLosses:
    """The masses whose divergences at the grid points exceed max(0, 1 - exp(l)) by `excess`.

    Without any excess all mass is at 0. The excess moves it to both sides by its second difference.
    `rounding` bounds the error of `excess`, which the second difference takes along.
    """
    rises = np.diff(excess)
    slopes = rises / math.expm1(grid)
    masses = np.zeros(excess.size)
    masses[-lower] = 1.0  # index of loss 0
    masses[0] -= excess[0]
    masses[:-1] += slopes
    masses[1:] -= slopes + rises
    lost = np.append(2 * rounding, rounding[-1:])
    lost[1:-1] += rounding[:-1]
    lost[:-2] += rounding[1:]
    lost[:-1] *= 1 + 1 / math.expm1(grid)
    lost[-lower] += 4 * _ULP
    # What rounding leaves below 0 is raised to 0, which can only enlarge a divergence.
    return DiscreteLosses(lower, np.maximum(masses, 0.0), float(excess[-1]), lost)


GRID = 1e-3
"""Distance of two neighbouring privacy losses; all distributions that are composed share it."""

LARGEST_LOSS = 1000.0
"""Distributions that are wider are not computed: the loss is reported as unbounded."""

_LARGEST_STEP = 400.0

_TAIL = 1e-15
_FINEST = 200
_LARGEST_TILT = 10 / GRID
Tilts = tuple[float, float]
"""Those of removing and of adding one record."""

UNTILTED: Tilts = (0.0, 0.0)
_PRECISE = 1e-5
"""An error of this share of delta moves epsilon by about 1e-6 of it."""

_TOLERATED = 1e-3
"""The share above which several mechanisms are composed anew with a tilt: 0.01 % of epsilon. One
alone costs no more with a tilt than without, and is held to `_PRECISE`."""

_STEP_ERROR = 2e-14
"""A step adds more than this to the error without a tilt: used only to foresee it."""


@dataclass(frozen=True, eq=False)
class Losses:
    """The loss of one direction (a record removed, or added), as tilted masses on a grid.

    The mass at loss l = (lower + i) * grid is exp(log_scale - tilt * l) * masses[i], and masses add
    up to about 1; `infinity` is the mass of an infinite loss. What the true loss has beyond that is
    at most exp(log_scale) * `error` when tilted, wherever it lies.
    """

    lower: int
    masses: _Floats
    infinity: float
    tilt: float = 0.0
    log_scale: float = 0.0
    error: float = 0.0

    def compose(self, other: Losses) -> Losses:
        """The loss of both mechanisms, of equal tilt; tails of 1e-15 go into the error."""
        length = self.masses.size + other.masses.size - 1
        size = scipy.fft.next_fast_len(length, real=True)
        mine, theirs = (scipy.fft.rfft(part.masses, size) for part in (self, other))
        # The FFT leaves masses of about -1e-17; raising them to 0 is pessimistic.
        masses = scipy.fft.irfft(mine * theirs, size)[:length]
        norms = sum(_norm(part) for part in (self.masses, other.masses, masses))
        rounding = math.sqrt(length) * _fft_error(size) * norms
        return _cut(
            replace(
                self,
                lower=self.lower + other.lower,
                masses=np.maximum(masses, 0.0),
                infinity=self.infinity + other.infinity,
                log_scale=self.log_scale + other.log_scale,
                error=self.error + other.error + self.error * other.error + rounding,
            )
        )

    def epsilon(self, delta: float, *, error: float = 0.0) -> float:
        """The least epsilon >= 0 whose hockey-stick divergence is at most `delta`.

        Infinity where the arithmetic (or the mass at infinity) bounds none by `delta`. `error` is
        charged where one's own is less.
        """
        losses, upper, scaled = self._suffixes(max(self.error, error))
        with np.errstate(over="ignore"):
            allowed = (delta - self.infinity) * np.exp(self.tilt * losses - self.log_scale)
        # At loss k the divergence is what lies above k; it falls to delta between two grid points.
        reached = upper - scaled <= allowed
        k = int(np.argmax(reached))
        if not reached[k]:
            return math.inf
        loss, excess = float(losses[k]), float(upper[k] - allowed[k])
        below = loss + math.log(excess / scaled[k]) if excess > 0 else 0.0
        return max(0.0, loss - GRID, below) * (1 + 4 * _ULP)

    def smallest_delta(self) -> float:
        """The smallest delta for which `epsilon` is finite."""
        losses, upper, scaled = self._suffixes(self.error)
        with np.errstate(over="ignore"):
            untilted = np.exp(self.log_scale - self.tilt * losses)
        return self.infinity + float(np.min((upper - scaled) * untilted))

    def _suffixes(self, error: float) -> tuple[_Floats, _Floats, _Floats]:
        """The losses above 0, and for each the masses from there on, plain and times exp(-loss).

        Both relative to that loss, the former with the `error` and rounded up, the latter down:
        their difference is the divergence there. One loss at least, with no mass if need be.
        """
        first = max(0, 1 - self.lower)
        masses = self.masses[first:] if first < self.masses.size else np.zeros(1)
        losses: _Floats = (self.lower + first + np.arange(masses.size, dtype=np.float64)) * GRID
        slack = 4 * _ULP * (masses.size + 16)
        # Epsilon may lie one grid point lower, where what is missing weighs more.
        missing = error * _largest_share(self.tilt) * math.exp(self.tilt * GRID)
        upper: _Floats = _suffix_sums(masses, self.tilt) * (1 + slack) + missing
        lower: _Floats = _suffix_sums(masses, self.tilt + 1) * (1 - slack)
        return losses, upper, lower


@dataclass(frozen=True, eq=False)
class Pair:
    """The losses of removing and of adding one record; the same object twice when symmetric."""

    remove: Losses
    add: Losses

    @property
    def error(self) -> float:
        """What the arithmetic adds to delta at most, without a tilt."""
        return max(losses.error + losses.infinity for losses in (self.remove, self.add))

    def compose(self, other: Pair) -> Pair | None:
        """Both mechanisms one after the other; None when the loss is beyond LARGEST_LOSS."""
        longest = max(self.remove.masses.size, self.add.masses.size)
        longest += max(other.remove.masses.size, other.add.masses.size)
        if longest * GRID > LARGEST_LOSS:
            return None
        remove = self.remove.compose(other.remove)
        symmetric = self.remove is self.add and other.remove is other.add
        return Pair(remove, remove if symmetric else self.add.compose(other.add))

    def epsilon(self, delta: float, *, error: float = 0.0) -> float:
        """The larger epsilon of the two directions."""
        epsilon = self.remove.epsilon(delta, error=error)
        if self.remove is self.add:
            return epsilon
        return max(epsilon, self.add.epsilon(delta, error=error))

    def smallest_delta(self) -> float:
        """The smallest delta for which `epsilon` is finite."""
        return max(self.remove.smallest_delta(), self.add.smallest_delta())


NOTHING = Pair(*[Losses(0, np.ones(1), 0.0)] * 2)
"""The loss of no mechanism at all."""


def composed_epsilon(
    parts: Sequence[Segment], *, delta: float, compose: Callable[[Tilts], Pair | None]
) -> float:
    """Epsilon at `delta` of `parts`, `folded` ones, an upper bound; infinity when unbounded.

    `compose` gives the losses of all of them at given tilts, which are used where the rounding
    shows in epsilon without. Raises PrivacyError, naming the smallest delta, where even so no
    epsilon can be bounded.
    """
    if len(parts) == 1 and parts[0].sampling_rate == 1:
        return gaussian_epsilon(parts[0].noise_multiplier, delta, largest=LARGEST_LOSS)
    if any(_unbounded(part) for part in parts):
        return math.inf
    steps = sum(part.steps for part in parts)
    tolerated = delta * (_PRECISE if len(parts) == 1 else _TOLERATED)
    whole = compose(UNTILTED) if steps * _STEP_ERROR <= tolerated else None
    if whole is None or whole.error > tolerated:
        whole = compose(_tilts_for(tuple(parts))) or whole or compose(UNTILTED)
    if whole is None:
        return math.inf
    # Several mechanisms are charged for more than their error, which depends on their order.
    epsilon = _epsilon(whole, delta, 0.0 if len(parts) == 1 else _PRECISE * delta)
    if math.isinf(epsilon):
        raise PrivacyError(_refusal(delta, steps, whole))
    return epsilon


@lru_cache(maxsize=128)
def _epsilon(whole: Pair, delta: float, error: float) -> float:
    return whole.epsilon(delta, error=0.0 if whole.remove.tilt else error)


def _refusal(delta: float, steps: int, whole: Pair) -> str:
    smallest = whole.smallest_delta()
    if smallest >= 0.9:
        return (
            f"privacy.delta = {delta}: {steps} steps are too many for the accounting's arithmetic"
        )
    # Two digits, rounded up by more than printing can round: the delta that is named is accepted.
    unit = 10.0 ** (math.floor(math.log10(smallest)) - 1)
    named = (math.floor(smallest / unit) + 1.01) * unit
    return f"privacy.delta = {delta}: the smallest delta that {steps} steps allow is {named:.1e}"


@lru_cache(maxsize=256)
def _tilts_for(parts: tuple[Segment, ...]) -> Tilts:
    """The tilts that serve a delta of 1e-9 best, hence 1e-4 to 1e-13 well; powers of sqrt(2).

    They minimise (log moment + log(1 / delta)) / tilt, as the order of Renyi DP is chosen. They
    depend on nothing but `parts`: a delta that is named as the smallest is reached with the same.
    """

    def tilt(*, adding: bool) -> float:
        @cache
        def bound(power: int) -> float:
            order = math.sqrt(2) ** power
            moments = (
                part.steps * _approximate_log_moment(*_mechanism(part), order, adding)
                for part in parts
            )
            return (sum(moments) + math.log(1e9)) / order

        power = start
        while power < most and bound(power + 1) < bound(power):
            power += 1
        while bound(power - 1) < bound(power):
            power -= 1
        return math.sqrt(2) ** power

    variance = sum(part.steps * _deviation(*_mechanism(part)) ** 2 for part in parts)
    most = math.floor(2 * math.log2(_LARGEST_TILT))
    # Of a Gaussian, the tail at 5 standard deviations.
    start = min(most, round(2 * math.log2(5 / math.sqrt(variance))))
    return tilt(adding=False), tilt(adding=True)


@lru_cache(maxsize=2**14)
def _approximate_log_moment(sigma: float, rate: float, order: float, adding: bool) -> float:
    """log E exp(order * loss) of one step, by a sum over noise: near enough to choose a tilt."""
    noise = np.linspace(-12 - order / sigma, 12 + (order + 1) / sigma, 500)
    plain = (noise - 0.5 / sigma) / sigma
    losses = np.logaddexp(math.log1p(-rate), math.log(rate) + plain) if rate < 1 else plain
    exponents = (-order if adding else order + 1) * losses - 0.5 * noise**2
    width = (noise[1] - noise[0]) / math.sqrt(2 * math.pi)
    return float(scipy.special.logsumexp(exponents)) + math.log(width)


@lru_cache(maxsize=64)
def losses_of(segment: Segment, tilts: Tilts = UNTILTED) -> Pair | None:
    """The losses of a segment on GRID; None when unbounded (no noise) or beyond LARGEST_LOSS."""
    if _unbounded(segment):
        return None
    removing = _step_of(segment, tilts[0], False)
    adding = _step_of(segment, tilts[1], True)
    remove = removing.repeated(segment.steps)
    add = remove if adding is removing else adding.repeated(segment.steps)
    return Pair(remove, add) if remove and add else None


def _unbounded(part: Segment) -> bool:
    sigma = part.noise_multiplier
    return sigma <= 0 or (0.5 / sigma + 10) / sigma > _LARGEST_STEP


@dataclass(frozen=True, eq=False)
class _Step:
    """One direction of one step on a grid `fine` times finer than GRID."""

    losses: Losses
    fine: int

    def repeated(self, steps: int) -> Losses | None:
        """`steps` of it composed, on GRID."""
        if steps == 1:
            return _coarsened(_cut(self.losses), self.fine)
        low, high = self._bounds(steps)
        if (high - low) * GRID / self.fine > LARGEST_LOSS:
            return None
        length = high - low + 1
        size = scipy.fft.next_fast_len(max(length, self.losses.masses.size), real=True)
        # Circular convolution of a window: what wraps around lies outside the Chernoff bounds and
        # has mass of at most _TAIL, which is added to the error below.
        spectrum = _power(scipy.fft.rfft(self.losses.masses, size), steps)
        masses = scipy.fft.irfft(spectrum, size)
        rounding = math.sqrt(length) * _power_error(_norm(masses), size, steps)
        masses = np.roll(masses, -low)[:length]
        whole = replace(
            self.losses,
            lower=self.losses.lower * steps + low,
            masses=np.maximum(masses, 0.0),
            # 1 - (1 - p)^T by expm1 and log1p: p may be far below the spacing of floats at 1.
            infinity=-math.expm1(steps * math.log1p(-self.losses.infinity)),
            log_scale=self.losses.log_scale * steps,
            error=_TAIL + rounding,
        )
        return _coarsened(_cut(whole), self.fine)

    def _bounds(self, steps: int) -> tuple[int, int]:
        """Indices outside which the T-fold sum has mass at most _TAIL (Chernoff)."""
        # Half of _TAIL on either side.
        below, above = (steps * self._log_moments + math.log(2 / _TAIL)) / self._orders
        high = min((self.losses.masses.size - 1) * steps, math.ceil(above.min()))
        return max(0, math.floor(below.max())), max(high, 0)

    @property
    def _orders(self) -> _Floats:
        return np.outer([-1, 1], _POWERS / self.losses.masses.size)

    @cached_property
    def _log_moments(self) -> _Floats:
        """log sum_i masses[i] exp(order i) for each of the orders."""
        masses = self.losses.masses
        return np.log([_moments(masses, sign / masses.size) for sign in (-1, 1)])


_POWERS = np.outer(np.exp2(np.arange(-6, 5)), [1, 1.5]).ravel()
"""Orders of log moments, over the number of masses: enough for one step and for 10^7."""


def _moments(masses: _Floats, unit: float) -> list[float]:
    weight = np.exp(_POWERS[0] * unit * np.arange(masses.size))
    # Every order is twice the one before the last: squaring takes the place of most exponentials.
    weights, moments = [weight, weight * np.sqrt(weight)], []
    for _ in range(_POWERS.size // 2):
        for weight in weights:
            moments.append(float(masses @ weight))
            np.square(weight, out=weight)
    return moments


def _mechanism(part: Segment) -> tuple[float, float]:
    """Noise multiplier and rate, a little less noise or less rare where they would overflow."""
    return min(part.noise_multiplier, LARGEST_NOISE), max(part.sampling_rate, SMALLEST_RATE)


def _step_of(part: Segment, tilt: float, adding: bool) -> _Step:
    sigma, rate = _mechanism(part)
    # Without sampling both directions are one object, and `losses_of` composes it once.
    return _step(sigma, rate, tilt, adding and rate < 1)


@lru_cache(maxsize=128)
def _step(sigma: float, rate: float, tilt: float, adding: bool) -> _Step:
    fine = _refinement(sigma, rate)
    return _Step(_tilted(_untilted(sigma, rate, fine)[adding], GRID / fine, tilt), fine)


# For both directions, whatever their tilts.
@lru_cache(maxsize=16)
def _untilted(sigma: float, rate: float, fine: int) -> tuple[DiscreteLosses, DiscreteLosses]:
    return sampled_gaussian(noise_multiplier=sigma, sampling_rate=rate, grid=GRID / fine)


def _tilted(step: DiscreteLosses, grid: float, tilt: float) -> Losses:
    """One step with masses raised by what rounding may have lost, and scaled to a sum of 1."""
    masses = step.masses + step.rounding[:-1]
    if tilt:
        # Weights relative to the last: none is above 1, so that none overflows.
        masses *= np.exp(tilt * grid * np.arange(1 - masses.size, 1))
    total = float(masses.sum())
    # Rounding of the weights and of their sum counts T-fold.
    rounding = _ULP * (32 + 4 * tilt * masses.size * grid)
    log_scale = math.log(total) + tilt * grid * (step.lower + masses.size - 1) + rounding
    infinity = step.infinity + float(step.rounding[-1])
    return Losses(step.lower, masses / total, infinity, tilt, log_scale)


def _power(spectrum: NDArray[np.complex128], steps: int) -> NDArray[np.complex128]:
    """The power of each, by squaring: each of the `steps` - 1 products adds 3 roundings at most."""
    power = None
    while True:
        if steps & 1:
            power = spectrum if power is None else power * spectrum
        steps >>= 1
        if not steps:
            assert power is not None
            return power
        spectrum = spectrum * spectrum


def _power_error(norm: float, size: int, steps: int) -> float:
    """The L2 norm of the rounding in the masses, of that `norm`, that come of a spectrum's power.

    Parseval: `norm` is the root mean square of |z|^T, and an error e of each z makes one of
    T e (|z| + e)^(T-1). The root mean square of |z|^(T-1) is at most `norm`^((T-1)/T) (Jensen), and
    that of (|z| + e)^(T-1) exceeds it (Minkowski) by no more than the factor (1 + e / r)^(T-1),
    r = `norm`^(1/T).
    """
    once = _fft_error(size)
    root = math.pow(norm, 1 / steps)
    grown = norm / root * math.exp(min(steps * once / root, _LARGEST))
    return steps * (once + 4 * _ULP) * grown + once * norm


def _fft_error(size: int) -> float:
    """What rounding adds to each value of an FFT of masses that sum to 1, at most.

    And to the L2 norm of an FFT, either way, relative to that norm. 6.7 roundings a level (Higham
    2002, Theorem 24.2, for radix 2; passes of 3, 4 and 5 have fewer for their size), taken as 8.
    """
    return 4 * _ULP * math.log2(size + 1)


def _norm(masses: _Floats) -> float:
    # Not by np.dot: for these lengths its threads cost a hundred times what they save.
    return math.sqrt(float(np.einsum("i,i->", masses, masses)))


def _deviation(sigma: float, rate: float) -> float:
    """A bound of the standard deviation of one step's loss: the chi-square distance."""
    return rate * math.sqrt(math.expm1(min(1 / sigma**2, 50.0)))


def _refinement(sigma: float, rate: float) -> int:
    """How much finer than GRID one step must be so that T-fold rounding stays below 0.1 %.

    Rounding to a grid of width h adds about h^2 / 12 to the variance s^2 of one step's loss, which
    composition multiplies as it does s^2. So h <= s / 12, where s is bounded by the chi-square
    distance of the mixture, q sqrt(exp(1 / sigma^2) - 1).
    """
    return max(1, min(_FINEST, math.ceil(12 * GRID / _deviation(sigma, rate))))


def _coarsened(losses: Losses, fine: int) -> Losses:
    """The same on a grid `fine` times coarser, pessimistically.

    Each mass is split between its two neighbours so that the mass and its mean of exp(-loss) are
    kept ("Connect the Dots" for atoms): a spread of the likelihood ratio, which dominates. What is
    missing need not be spread: it bounds its own share of every divergence where it is.
    """
    if fine == 1:
        return losses
    lower, offset = divmod(losses.lower, fine)
    masses = np.pad(losses.masses, (offset, -(losses.masses.size + offset) % fine))
    rows = masses.reshape(-1, fine)
    place = GRID / fine * np.arange(fine)
    upward = np.expm1(-place) / math.expm1(-GRID)
    coarse = np.zeros(len(rows) + 1)
    coarse[:-1] += rows @ ((1 - upward) * np.exp(-losses.tilt * place))
    coarse[1:] += rows @ (upward * np.exp(losses.tilt * (GRID - place)))
    total = float(coarse.sum())
    return replace(
        losses,
        lower=lower,
        masses=coarse / total,
        log_scale=losses.log_scale + math.log(total),
        error=losses.error / total,
    )


def _cut(losses: Losses) -> Losses:
    """Without the lowest and the highest mass of _TAIL / 2, which go into the error."""
    masses = losses.masses
    from_below, from_above = np.cumsum(masses), np.cumsum(masses[::-1])
    left = min(int(np.searchsorted(from_below, _TAIL / 2, side="right")), masses.size - 1)
    right = masses.size - int(np.searchsorted(from_above, _TAIL / 2, side="right"))
    right = max(right, left + 1)
    return replace(
        losses,
        lower=losses.lower + left,
        masses=masses[left:right].copy(),
        error=losses.error + _TAIL,
    )


def _suffix_sums(masses: _Floats, decay: float) -> _Floats:
    """For each k: the sum of masses[i] exp(-decay (loss_i - loss_k)) from k on."""
    sums: _Floats = scipy.signal.lfilter([1.0], [1.0, -math.exp(-decay * GRID)], masses[::-1])[::-1]
    return sums


def _largest_share(tilt: float) -> float:
    """The largest exp(-tilt x) (1 - exp(-x)) over x >= 0, as from Renyi to (epsilon, delta)-DP."""
    return math.exp(scipy.special.xlogy(tilt, tilt / (1 + tilt))) / (1 + tilt)
