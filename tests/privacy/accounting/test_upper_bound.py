"""No epsilon lies below the true one, however small delta and however many the steps.

Two references are exact: unsampled Gaussian mechanisms, in 40 digits, and sums of a few products of
positive floats, which lose no digits (a direct convolution).
"""

import math
from dataclasses import replace
from functools import lru_cache

import mpmath
import numpy as np
import pytest
import scipy
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting import Spending, dp_sgd_event, epsilon, gaussian_event
from privet.privacy.accounting.events import Segment
from privet.privacy.accounting.losses import (
    GRID,
    LARGEST_LOSS,
    Losses,
    Pair,
    _coarsened,
    _cut,
    _fft_error,
    _tilted,
    composed_epsilon,
    losses_of,
    sampled_gaussian,
)
from privet.privacy.ledger.costs import epsilon_of

SEEN = [(100.0, 10**5), (1000.0, 10**6), (100 / 3, 10**4), (1000 / 3, 10**6), (1000 / 6, 10**6)]
"""Noise multipliers and steps whose epsilon was 0.25 % below the exact one, or 3.4 times it."""

noises = st.floats(math.log(0.5), math.log(1000)).map(math.exp)
counts = st.floats(0, 6).map(lambda power: int(10**power))
deltas = st.floats(-12, -0.1).map(lambda power: max(10**power, 1e-12))


def dp_sgd(noise_multiplier, sampling_rate, steps):
    return dp_sgd_event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps)


def mu_of(*steps):
    """Of (noise multiplier, steps) pairs."""
    with mpmath.workdps(40):
        return mpmath.sqrt(sum(count / mpmath.mpf(sigma) ** 2 for sigma, count in steps))


def exact_delta(mu, epsilon):
    with mpmath.workdps(40):
        shift = mpmath.mpf(epsilon) / mu
        return mpmath.ncdf(mu / 2 - shift) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - shift)


def check(found, mu, delta, *, within, beside=0.0):
    """`found` is at least the exact epsilon, and not above `within` times it (plus `beside`)."""
    if math.isinf(found):
        assert exact_delta(mu, 0.9 * LARGEST_LOSS) > delta
        return
    assert exact_delta(mu, found) <= delta
    if found > beside:
        assert exact_delta(mu, (found - beside) / within) >= delta


@given(sigma=noises, steps=counts, delta=deltas)
@settings(max_examples=300, deadline=None)
@example(sigma=0.5, steps=10**6, delta=1e-12)
@example(sigma=1000.0, steps=1, delta=1e-12)
def test_unsampled_steps_cost_what_the_gaussian_mechanism_costs(sigma, steps, delta):
    check(
        epsilon([dp_sgd(sigma, 1.0, steps)], delta=delta),
        mu_of((sigma, steps)),
        delta,
        within=1 + 1e-9,
    )


@given(parts=st.lists(st.tuples(noises, counts), min_size=1, max_size=6), delta=deltas)
@settings(max_examples=100, deadline=None)
def test_so_does_any_mixture_of_them_in_any_order(parts, delta):
    events = [dp_sgd(sigma, 1.0, steps) for sigma, steps in parts]
    found = epsilon(events, delta=delta)
    check(found, mu_of(*parts), delta, within=1 + 1e-9)
    assert epsilon(events[::-1], delta=delta) == found
    assert epsilon_of([Segment(sigma, 1.0, steps) for sigma, steps in parts], delta=delta) == found


@pytest.mark.parametrize(("sigma", "steps"), SEEN)
@pytest.mark.parametrize("delta", [1e-6, 1e-8, 1e-10, 1e-12])
def test_figures_that_were_wrong(sigma, steps, delta):
    found = epsilon([dp_sgd(sigma, 1.0, steps)], delta=delta)
    check(found, mu_of((sigma, steps)), delta, within=1 + 1e-9)


@given(mu=st.floats(1e-3, 30), delta=deltas)
@settings(max_examples=100, deadline=None)
def test_a_float_formula_finds_nothing_below_it_either(mu, delta):
    from scipy.special import log_ndtr

    found = epsilon([gaussian_event(1 / mu)], delta=delta)
    a, b = log_ndtr(mu / 2 - found / mu), found + log_ndtr(-mu / 2 - found / mu)
    assert found == 0 or -math.exp(a) * math.expm1(b - a) <= delta * (1 + 1e-10)


def by_losses(sigma, steps, delta):
    """Unsampled steps by privacy loss distributions, as if there were no closed form."""
    parts = [Segment(sigma, 1.0, steps), Segment(2 * sigma, 1.0, 4)]

    def compose(tilts):
        pairs = [losses_of(part, tilts) for part in parts]
        return None if None in pairs else pairs[0].compose(pairs[1])

    return composed_epsilon(parts, delta=delta, compose=compose)


@given(sigma=noises, steps=counts, delta=deltas)
@settings(max_examples=60, deadline=None)
@example(sigma=100 / 3, steps=10**4, delta=1e-12)
@example(sigma=1000.0, steps=10**6, delta=1e-12)
@example(sigma=1000.0, steps=10**6, delta=1e-10)
@example(sigma=1000.0, steps=1, delta=1e-12)
@example(sigma=0.5, steps=2, delta=1e-12)
def test_composed_losses_are_an_upper_bound_and_a_close_one(sigma, steps, delta):
    """The arithmetic of sampled mechanisms where the exact answer is known."""
    mu = mu_of((sigma, steps + 1))
    check(by_losses(sigma, steps, delta), mu, delta, within=1.002, beside=2 * GRID)


def test_without_the_error_term_the_bound_is_lost():
    """What the term is there for: with none and no tilt, some are up to 1 % below the exact one."""
    delta, below = 1e-12, 0
    for mu, steps in [(0.3, 10**5), (1, 1000), (3, 1000), (6, 10**6)]:
        sigma = math.sqrt(steps) / mu
        losses, exact = losses_of(Segment(sigma, 1.0, steps)).remove, mu_of((sigma, steps))
        below += exact_delta(exact, replace(losses, error=0.0).epsilon(delta)) > delta
        assert math.isinf(losses.epsilon(delta))
        reached = losses.smallest_delta() * 1.01
        assert delta < losses.error < reached
        assert exact_delta(exact, losses.epsilon(reached)) <= reached
    assert below


@given(
    masses=st.lists(st.floats(0.01, 1), min_size=3, max_size=30),
    lower=st.integers(-10, 400),
    tilt=st.one_of(st.floats(0, 30), st.floats(30, 1000)),
    error=st.floats(1e-3, 0.5),
    delta=st.floats(-12, -0.1).map(lambda power: 10**power),
    fine=st.sampled_from([1, 5]),
)
@example(masses=[1.0] * 3, lower=0, tilt=2.3e-309, error=0.5, delta=0.1, fine=1)
@settings(max_examples=300, deadline=None)
def test_the_error_covers_what_is_missing_wherever_it_was(masses, lower, tilt, error, delta, fine):
    """Losses with an atom more, of as much tilted mass as the error allows, at the worst place."""
    masses = np.array(masses) / sum(masses)
    losses = GRID / fine * (lower + np.arange(masses.size))
    log_scale = tilt * losses[-1]
    bound = _coarsened(Losses(lower, masses, 0.0, tilt, log_scale, error), fine).epsilon(delta)
    if math.isinf(bound):
        return
    above = losses > bound
    known = masses[above] * np.exp(log_scale - tilt * losses[above])
    places = bound + np.geomspace(1e-6, 100, 10_000)
    missing = error * np.exp(log_scale - tilt * places) * -np.expm1(bound - places)
    found = known @ -np.expm1(bound - losses[above]) + missing.max()
    assert found <= delta * (1 + 1e-9)


def test_what_is_cut_and_what_a_convolution_rounds_go_into_the_error():
    masses = np.exp(-0.5 * np.linspace(-12, 12, 1001) ** 2)
    whole = Losses(0, masses / masses.sum(), 0.0, error=1e-3)
    cut = _cut(whole)
    assert 0 < whole.masses.sum() - cut.masses.sum() <= cut.error - whole.error
    assert cut.masses.size < 700
    both = whole.compose(whole)
    assert both.error > 2e-3 + 1e-6 + 1e-15


@pytest.mark.parametrize("size", [12, 1024, 3 * 5**4, 2**15, 3**4 * 2**9])
@pytest.mark.parametrize("narrow", [False, True])
def test_an_fft_rounds_no_more_than_its_bound(size, narrow):
    """Against one in long doubles, where these are longer than doubles."""
    x = np.arange(size)
    masses = np.exp(-0.5 * (x - size / 2) ** 2 / (1 if narrow else size / 16) ** 2)
    masses /= masses.sum()
    rounded, exact = scipy.fft.rfft(masses), scipy.fft.rfft(masses.astype(np.longdouble))
    assert np.abs(rounded - exact).max() <= _fft_error(size)
    assert _fft_error(size) == pytest.approx(8 * math.log2(size) * 2**-53, rel=0.05)
    back = np.linalg.norm(scipy.fft.irfft(rounded, size) - masses)
    assert back <= 2 * _fft_error(size) * np.linalg.norm(masses)


@lru_cache
def direct(sigma, rate, doublings, adding):
    """(lower, masses) of 2^doublings steps, by direct convolution of the positive masses of one.

    What is dropped of the tails, masses below 1e-30, can only lower epsilon.
    """
    step = sampled_gaussian(noise_multiplier=sigma, sampling_rate=rate, grid=GRID * 10)[adding]
    lower, masses = step.lower, step.masses
    for _ in range(doublings):
        lower, masses = 2 * lower, np.convolve(masses, masses)
        kept = np.flatnonzero(masses > 1e-30)
        lower, masses = lower + kept[0], masses[kept[0] : kept[-1] + 1]
    return lower, masses


def direct_delta(lower, masses, epsilon, grid):
    losses = (lower + np.arange(masses.size)) * grid
    above = losses > epsilon
    return float(masses[above] @ -np.expm1(epsilon - losses[above]))


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.1), (2.0, 0.5), (0.8, 0.02), (5.0, 0.9)])
@pytest.mark.parametrize("delta", [1e-12, 1e-9, 1e-6, 1e-3])
def test_sampled_steps_are_convolved_as_if_directly(sigma, rate, delta, monkeypatch):
    """On a grid of 0.01 throughout, where a direct convolution is quick."""
    from privet.privacy.accounting import losses as module

    monkeypatch.setattr(module, "GRID", GRID * 10)
    monkeypatch.setattr(module, "_refinement", lambda sigma, rate: 1)
    caches = [module.losses_of, module._step, module._untilted]
    for cache in caches:
        cache.cache_clear()
    part = Segment(sigma, rate, 2**7)
    found = composed_epsilon([part], delta=delta, compose=lambda tilts: losses_of(part, tilts))
    for cache in caches:
        cache.cache_clear()
    both = [direct(sigma, rate, 7, adding) for adding in (False, True)]
    assert max(direct_delta(*losses, found, GRID * 10) for losses in both) <= delta
    assert max(direct_delta(*losses, found * (1 - 1e-5), GRID * 10) for losses in both) > delta


@given(
    sigma=st.floats(0.6, 10),
    rate=st.floats(0.01, 0.99),
    steps=st.integers(1, 20),
    delta=st.floats(-9, -2).map(lambda power: 10**power),
)
@settings(max_examples=10, deadline=None)
def test_sampled_steps_lie_between_an_optimistic_account_and_renyi(sigma, rate, steps, delta):
    step = PoissonSampledDpEvent(rate, GaussianDpEvent(sigma))
    found = epsilon([SelfComposedDpEvent(step, steps)], delta=delta)
    optimistic = privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        sampling_prob=rate,
        value_discretization_interval=1e-3,
        pessimistic_estimate=False,
        use_connect_dots=False,
    ).self_compose(steps)
    assert found >= optimistic.get_epsilon_for_delta(delta)
    renyi = RdpAccountant().compose(SelfComposedDpEvent(step, steps)).get_epsilon(delta)
    assert found <= renyi * 1.001 + GRID


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"),
    [(1.0, 0.1, 400, 1e-9), (10.0, 0.5, 1000, 1e-8), (0.7, 0.01, 2000, 1e-7)],
)
def test_sampled_steps_are_not_far_above_a_ten_times_finer_grid(sigma, rate, steps, delta):
    finer = PLDAccountant(value_discretization_interval=1e-4)
    event = dp_sgd(sigma, rate, steps)
    assert epsilon([event], delta=delta) <= finer.compose(event).get_epsilon(delta) * 1.002


@given(sigma=noises, rate=st.floats(1e-3, 1), adding=st.booleans(), fine=st.sampled_from([1, 10]))
@settings(max_examples=15, deadline=None)
def test_no_mass_is_off_by_more_than_its_rounding(sigma, rate, adding, fine):
    grid = GRID / fine
    step = sampled_gaussian(noise_multiplier=sigma, sampling_rate=rate, grid=grid)[adding]
    raised = _tilted(step, grid, 0.0)
    middle = np.linspace(1, step.masses.size - 2, 25).astype(int)
    for i in {*middle, -step.lower} - {0, step.masses.size - 1}:
        exact = exact_mass(sigma, rate, adding, int(step.lower + i), grid)
        assert abs(step.masses[i] - exact) <= step.rounding[i]
        assert math.exp(raised.log_scale) * raised.masses[i] >= exact
    last = step.lower + step.masses.size - 1
    tail = exact_excess(sigma, rate, adding, last, grid)
    assert step.infinity + step.rounding[-1] >= tail or tail < 1e-300


def exact_mass(sigma, rate, adding, index, grid):
    with mpmath.workdps(60):
        low, here, high = (exact_excess(sigma, rate, adding, index + k, grid) for k in (-1, 0, 1))
        slope = mpmath.expm1(grid)
        return (index == 0) + (high - here) / slope - (here - low) * (1 + 1 / slope)


def exact_excess(sigma, rate, adding, index, grid):
    """What the hockey-stick divergence exceeds max(0, 1 - exp(loss)) by."""
    with mpmath.workdps(60):
        loss, sigma, rate = index * mpmath.mpf(grid), mpmath.mpf(sigma), mpmath.mpf(rate)
        if adding:
            return mpmath.exp(loss) * exact_excess(sigma, rate, False, -index, grid)
        inside = (mpmath.exp(loss) - 1 + rate) / rate
        if inside <= 0:
            return mpmath.mpf(0)
        plain = mpmath.log(inside)
        divergence = mpmath.ncdf(0.5 / sigma - plain * sigma)
        divergence -= inside * mpmath.ncdf(-0.5 / sigma - plain * sigma)
        return rate * (divergence - max(0, 1 - inside))


@pytest.mark.parametrize("error", [3.3e-11, 1e-4, 0.5])
def test_a_delta_that_is_out_of_reach_is_refused_and_the_one_named_is_not(error):
    """Where even tilted masses left such an error; none of the mechanisms above does."""
    part = Segment(2.0, 0.1, 100)
    whole = losses_of(part)
    whole = Pair(*(replace(losses, error=error) for losses in (whole.remove, whole.add)))

    def found(delta):
        return composed_epsilon([part], delta=delta, compose=lambda _: whole)

    with pytest.raises(PrivacyError, match=r"privacy\.delta = 1e-12: .*100 steps allow") as refusal:
        found(1e-12)
    named = float(str(refusal.value).split()[-1])
    assert error < named < 1.2 * error
    assert 0 < found(named) < math.inf


def test_an_error_beyond_every_delta_is_refused_without_naming_one():
    part = Segment(2.0, 0.1, 100)
    whole = Pair(*[replace(losses_of(part).remove, error=3.0)] * 2)
    with pytest.raises(PrivacyError, match="100 steps are too many"):
        composed_epsilon([part], delta=1e-5, compose=lambda _: whole)


@given(
    parts=st.lists(
        st.tuples(st.floats(5, 500), st.floats(0.01, 1), counts), min_size=2, max_size=4
    ),
    delta=deltas,
)
@settings(max_examples=20, deadline=None)
def test_mixtures_cost_no_less_than_their_unsampled_parts_and_no_more_than_all_unsampled(
    parts, delta
):
    events = [dp_sgd(*part) for part in parts]
    found = Spending(tuple(events)).epsilon(delta)
    unsampled = [dp_sgd(*part) for part in parts if part[1] == 1]
    everybody = epsilon([dp_sgd(sigma, 1.0, steps) for sigma, _, steps in parts], delta=delta)
    assert epsilon(unsampled, delta=delta) <= found
    assert found <= everybody * 1.002 + 2 * GRID or everybody > 500
    ledger = epsilon_of([Segment(*part) for part in parts], delta=delta)
    # A mechanism that comes back later is composed as one there, and rounded to the grid once.
    assert ledger == pytest.approx(found, rel=2e-3, abs=GRID)
