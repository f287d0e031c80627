"""How much noise a target epsilon needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import scipy

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment, check_steps
from privet.privacy.accounting.gaussian import folded, gaussian_delta
from privet.privacy.accounting.losses import composed_epsilon, losses_of
from privet.privacy.accounting.spending import check_delta

LARGEST_EPSILON = 200.0
"""Above it epsilon promises nothing, and the accounting of it would be slow."""

_UNIT = 1e-4
_SLACK = 0.995
MOST_NOISE = 1e8
"""The largest noise multiplier: more noise would not cost measurably less."""
_MOST_UNITS = round(MOST_NOISE / _UNIT)


def noise_multiplier_for(
    *, epsilon: float, delta: float, sampling_rate: float, steps: int
) -> float:
    """The noise multiplier with which `steps` DP-SGD steps cost at most `epsilon` at `delta`.

    Guarantee: the PLD epsilon of the result (as Spending computes it, add-or-remove adjacency) is
    at most `epsilon`, and at least 0.995 of it unless one unit less noise would exceed it. The
    result is a multiple of 0.0001.

    Raises PrivacyError, naming the setting, for an epsilon outside (0, 200], a delta outside
    [1e-12, 1), a sampling rate outside (0, 1] and fewer than one step.
    """
    _check(epsilon, delta, sampling_rate, steps)

    def cost(units: int) -> float:
        (part,) = folded([Segment(_multiplier(units), sampling_rate, steps)])
        return composed_epsilon([part], delta=delta, compose=partial(losses_of, part))

    # Only where the search starts: what is returned has been accounted by PLD itself.
    guess = _central_limit_guess(epsilon, delta, sampling_rate, steps)
    units = _least_units(cost, epsilon, start=max(1, math.ceil(guess / _UNIT)))
    if units is None:
        raise PrivacyError(f"privacy.epsilon = {epsilon}: no noise multiplier reaches it")
    return _multiplier(units)


def raised_noise(cost: Callable[[float], float], *, floor: float) -> float | None:
    """The least noise multiplier, from `floor` on, whose `cost` is at most 1; None when none is.

    `cost` of a noise multiplier falls with it, such as projected epsilon over what is allowed. The
    result is `floor`, or a multiple of 0.0001 whose cost is at least 0.995 unless one unit less
    would exceed 1.
    """
    if cost(floor) <= 1:
        return floor
    too_few = math.floor(floor / _UNIT)
    units = _least_units(
        lambda units: cost(_multiplier(units)), 1.0, start=2 * too_few + 1, too_few=too_few
    )
    return None if units is None else _multiplier(units)


def _check(epsilon: float, delta: float, sampling_rate: float, steps: int) -> None:
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise PrivacyError(
            f"privacy.epsilon = {epsilon} must lie in (0, {LARGEST_EPSILON:g}]; "
            "leave out [privacy] for training without differential privacy"
        )
    check_delta(delta)
    if not 0 < sampling_rate <= 1:
        raise PrivacyError(f"sampling_rate = {sampling_rate} must lie in (0, 1]")
    if steps < 1:
        raise PrivacyError(f"steps = {steps}: calibration needs at least one step")
    check_steps(steps)


def _multiplier(units: int) -> float:
    """`units` of 0.0001 as the nearest float, so that printing it shows four decimals."""
    return round(units * _UNIT, 4)


def _least_units(
    cost: Callable[[int], float], target: float, *, start: int, too_few: int = 0
) -> int | None:
    """A count of units whose cost lies in [0.995 target, target], or the first that costs less.

    Cost falls with the units, nearly as a power of them: a secant in logarithms, kept inside the
    bracket (too_few, enough). None when even _MOST_UNITS cost more.
    """
    enough = None
    points: list[tuple[float, float]] = []
    units = start
    for _ in range(200):
        if too_few >= _MOST_UNITS:
            return None
        spent = cost(units)
        if spent <= target:
            if spent >= _SLACK * target:
                return units
            enough = units
        else:
            too_few = units
        if enough is not None and enough - too_few <= 1:
            return enough
        if 0 < spent < math.inf:
            points.append((math.log(units), math.log(spent)))
        # A secant alone can leave the bracket, where cost is not quite a power of the units.
        units = _inside(_secant(points[-2:], target), too_few, enough)
    return enough


def _secant(points: list[tuple[float, float]], target: float) -> float | None:
    """Where the line through the last two points meets the middle of the accepted band."""
    if not points:
        return None
    # Of one point alone: epsilon falls as one over the noise, and faster where there is little of
    # it.
    (x, y), slope = points[-1], -1.3
    if len(points) == 2 and points[0][0] != x:
        # Rounding can make two close points lie level or rise.
        slope = min((y - points[0][1]) / (x - points[0][0]), -0.2)
    # exp(60) is far above _MOST_UNITS, and nothing overflows.
    return math.exp(min(x + (math.log(target * (1 + _SLACK) / 2) - y) / slope, 60.0))


def _inside(proposal: float | None, too_few: int, enough: int | None) -> int:
    """The proposal where the bracket allows it, else a point that shrinks or widens the bracket."""
    wish = 0 if proposal is None else math.ceil(proposal)
    if enough is None:
        return min(max(wish or 2 * too_few, too_few + 1), 16 * too_few)
    return wish if too_few < wish < enough else (too_few + enough + 1) // 2


def _central_limit_guess(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The noise multiplier that the central limit theorem of Gaussian DP asks for.

    Dong, Roth & Su 2022 (arXiv 1905.02383), Corollary 5.4: mu = q sqrt(T (exp(1 / sigma^2) - 1)).
    It under-estimates the noise, which does not matter where the search starts.
    """
    mu = float(scipy.optimize.brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, 1e-9, 200.0))
    return 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps))
