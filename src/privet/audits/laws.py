"""Tests of numbers whose law is known; those of a claim are judged together.

A correct mechanism fails a claim with probability LEVEL at most: by Holm (1979) for all tests of
the claim, however they depend on each other, by Bonferroni where one test looks at many places.
Tests for dependence look at signs alone: products of independent fair signs are fair and
independent, so that Hoeffding's bound (1963) holds exactly whatever the law of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.special import chdtr, chdtrc, gammainc, gammaincc, ndtr

from privet.privacy.mechanisms.canaries import Floats

LEVEL = 0.001
"""How often a correct mechanism fails a claim."""

WIDER = 1.001
"""Noise may be wider by so much: what rounding to a grid adds is charged, and is no fault."""

_SORTED = 20_000
"""Of how many numbers the distribution function is looked at."""
_TAILS = 2.0, 2.5, 3.05
"""Where noise may be cut off; at 3 itself rounding would decide on which side numbers lie."""
_CELL = 0.004
_PAIRS = 64
"""Streams up to which each two are compared at every shift; beyond, in place."""
_MOST_ROWS, _MOST_NUMBERS = 4000, 4_000_000


@dataclass(frozen=True)
class Check:
    """One test of the claimed law."""

    name: str
    finds: str
    """What a failure would mean."""
    p_value: float
    seen: float
    expected: float


@dataclass(frozen=True)
class Conformance:
    """All tests together: the mechanism conforms when none fails at `level` after Holm (1979)."""

    level: float
    checks: tuple[Check, ...]
    steps: int
    values: int
    """Numbers looked at."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The tests that refute the claim, the clearest first."""
        # Of so many tests one would often fail by chance: Holm keeps `level` for all together, also
        # where tests look at the same numbers and depend on each other.
        failed: list[Check] = []
        for check in sorted(self.checks, key=lambda check: check.p_value):
            if check.p_value > self.level / (len(self.checks) - len(failed)):
                break
            failed.append(check)
        return tuple(failed)

    @property
    def conforms(self) -> bool:
        """Whether the claimed mechanism may well have given these numbers."""
        return not self.failed

    @property
    def p_value(self) -> float:
        """That of all tests together: the smallest level at which one fails."""
        return min(1.0, len(self.checks) * min(check.p_value for check in self.checks))


def fault_of(check: Check) -> str:
    """A test that refutes the claim, in words."""
    return (
        f"{check.finds} ({check.name}): {check.seen:.4g} where {check.expected:.4g} was expected, "
        f"p = {check.p_value:.2g}"
    )


def smallest(name: str, checks: Iterable[Check]) -> Check:
    """One test out of several of the same kind in different places: the clearest (Bonferroni)."""
    found = list(checks)
    least = min(found, key=lambda check: check.p_value)
    return replace(least, name=name, p_value=min(1.0, least.p_value * len(found)))


def two_sided(below: float, above: float) -> float:
    """Twice the smaller of two tails."""
    return float(min(1.0, 2 * min(below, above)))


def variance(name: str, finds: str, noise: Floats) -> Check:
    """Chi-square on independent normal numbers of a deviation from 1 to WIDER.

    From both sides: too much noise is another mechanism than the claimed one, too.
    """
    total = float(np.square(noise).sum())
    p_value = two_sided(chdtr(noise.size, total), chdtrc(noise.size, total / WIDER**2))
    return Check(name, finds, p_value, float(np.sqrt(total / noise.size)), 1.0)


def at_least(name: str, finds: str, sums: Floats) -> Check:
    """Whether sums vary as little as they would not even if nothing but noise were in them.

    What the noise is added to may be anything, chosen after all noise before: its square then
    tends to be larger (Anderson 1955), so the lower tail of chi-square bounds the chance.
    """
    total = float(np.square(sums).sum())
    p_value = float(chdtr(sums.size, total))
    return Check(name, finds, p_value, float(np.sqrt(total / sums.size)), 1.0)


def mean(name: str, finds: str, noise: Floats) -> Check:
    """Of independent standard normal numbers."""
    p_value = 2 * ndtr(-abs(noise.sum()) / np.sqrt(noise.size))
    return Check(name, finds, float(p_value), float(noise.mean()), 0.0)


def normality(noise: Floats) -> Check:
    """Kolmogorov & Smirnov, on evenly chosen numbers when there are many."""
    some = noise[:: -(-noise.size // _SORTED)]
    found = stats.kstest(some, ndtr, method="asymp" if some.size > 1000 else "auto")
    return Check(
        "normality", "noise that is not normal", float(found.pvalue), float(found.statistic), 0.0
    )


def tail(noise: Floats) -> Check:
    """How many numbers lie beyond two or three standard deviations: rare in noise that is cut off.

    Kolmogorov & Smirnov's test sees little of the tails.
    """
    return smallest("tail", (_beyond(noise, far) for far in _TAILS))


def _beyond(noise: Floats, far: float) -> Check:
    share = 2 * float(ndtr(-far))
    count = int((np.abs(noise) > far).sum())
    p_value = stats.binomtest(count, noise.size, share).pvalue
    return Check("tail", "noise with other tails", float(p_value), count / noise.size, share)


def grid(noise: Floats) -> Check:
    """How many pairs of neighbours in value fall into one narrow cell: many on a coarse grid."""
    some = noise.ravel()[:: -(-noise.size // _SORTED)]
    _, sizes = np.unique(np.floor(some / _CELL), return_counts=True)
    pairs = float((sizes * (sizes - 1) / 2).sum())
    # Two normal numbers lie in one cell of width w with probability w / (2 sqrt(pi)).
    expected = some.size * (some.size - 1) / 2 * _CELL / (2 * math.sqrt(math.pi))
    # Pairs that share a number depend on each other, which adds 0.087 n w of it to the variance.
    deviation = math.sqrt(expected * (1 + 0.1 * _CELL * some.size))
    normal = stats.norm.sf((pairs - expected - 1) / deviation)
    p_value = float(max(normal, stats.poisson.sf(pairs - 1, expected)))
    return Check("grid", "noise on a coarse grid", p_value, pairs, expected)


def spread(name: str, finds: str, deviations: Floats, variances: Floats, *, rate: float) -> Check:
    """Whether counts of independent coins deviate from their means as they should; from both sides.

    The mean of squares over variances is taken for a gamma variable of its exact variance, which
    follows from the binomial law's kurtosis.
    """
    kept = variances > 0
    squares = np.square(deviations[kept]) / variances[kept]
    variance = float((2 + (1 - 6 * rate * (1 - rate)) / variances[kept]).sum())
    shape, value = squares.size**2 / variance, float(squares.sum()) * squares.size / variance
    p_value = two_sided(gammainc(shape, value), gammaincc(shape, value))
    return Check(name, finds, p_value, float(np.sqrt(squares.mean())), 1.0)


def again_elsewhere(streams: Sequence[Floats]) -> Check:
    """Whether any two streams of noise depend on each other, of as many numbers each.

    Every two are compared in place, and where they are few at every shift.
    """
    name, finds = "again-elsewhere", "noise used again in another step, round or silo"
    signs = _signs(streams)
    if len(signs) < 2:
        return Check(name, finds, 1.0, 0.0, 0.0)
    width, pairs = signs.shape[1], math.comb(len(signs), 2)
    products = signs @ signs.T
    np.fill_diagonal(products, 0.0)
    found = [_hoeffding(name, finds, products, width, tried=pairs)]
    if len(signs) <= _PAIRS and width > 1:
        found.append(_shifted(name, finds, signs))
    return smallest(name, found)


def again_within(streams: Sequence[Floats]) -> Check:
    """Whether a stream of noise depends on itself at any shift, or read backwards."""
    name, finds = "again-within", "noise used again within a draw"
    signs = _signs(streams)
    width = signs.shape[1]
    if width < 2:
        return Check(name, finds, 1.0, 0.0, 0.0)
    size = _fast(2 * width)
    spectra = np.fft.rfft(signs, size)
    shifts = np.fft.irfft(np.square(np.abs(spectra)), size)[:, 1:width]
    counts = len(signs) * np.arange(width - 1, 0, -1)
    one = _hoeffding(name, finds, shifts.sum(axis=0), counts, tried=width - 1)
    backwards = np.fft.irfft(np.square(spectra), size)[:, : 2 * width - 1].sum(axis=0)
    places = np.arange(2 * width - 1)
    # Each product stands there twice, but for a number's with itself, which is 1.
    own = np.where(places % 2 == 0, len(signs), 0)
    pairs = len(signs) * (np.minimum(places, 2 * width - 2 - places) + 1) // 2
    kept = pairs > 0
    other = _hoeffding(
        name, finds, ((backwards - own) / 2)[kept], pairs[kept], tried=int(kept.sum())
    )
    return smallest(name, [one, other])


def _signs(streams: Sequence[Floats]) -> Floats:
    few = max(1, min(_MOST_ROWS, _MOST_NUMBERS // streams[0].size))
    some = streams[:: -(-len(streams) // few)]
    rows = np.stack([each.ravel()[:_MOST_NUMBERS] for each in some])
    return np.where(rows > 0, np.float32(1.0), np.float32(-1.0))


def _shifted(name: str, finds: str, signs: Floats) -> Check:
    width = signs.shape[1]
    size = _fast(2 * width)
    spectra = np.fft.rfft(signs, size)
    shifts = np.concatenate([np.arange(width), np.arange(1 - width, 0)])
    counts = width - np.abs(shifts)
    pairs = math.comb(len(signs), 2)
    found = []
    for place in range(len(signs) - 1):
        crossed = np.fft.irfft(spectra[place + 1 :] * spectra[place].conj(), size)
        kept = np.concatenate([crossed[:, :width], crossed[:, size - width + 1 :]], axis=1)
        found.append(_hoeffding(name, finds, kept, counts, tried=pairs * len(counts)))
    return min(found, key=lambda check: check.p_value)


def _fast(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _hoeffding(name: str, finds: str, sums: Floats, counts: Floats | int, *, tried: int) -> Check:
    """Of sums of so many fair signs the least likely; as many were tried."""
    squares = np.square(sums) / (2 * np.asarray(counts, dtype=np.float64))
    place = np.unravel_index(int(squares.argmax()), squares.shape)
    p_value = min(1.0, 2 * tried * math.exp(-float(squares[place])))
    share = float(sums[place] / np.broadcast_to(counts, squares.shape)[place])
    return Check(name, finds, p_value, share, 0.0)
