"""One step's masses against dp-accounting's, and what must hold where dp-accounting fails."""

import math

import numpy as np
import pytest
from dp_accounting.pld import pld_pmf, privacy_loss_distribution, privacy_loss_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting.losses import _connected, sampled_gaussian

GRID = 1e-3

# Rates still closer to 0 and to 1 make dp-accounting lose digits or raise.
RATES = st.one_of(
    st.floats(0.01, 0.99),
    st.floats(-12, -2).map(lambda exponent: 10**exponent),
    st.floats(-9, -2).map(lambda exponent: 1 - 10**exponent),
    st.just(1.0),
)
# dp-accounting takes 2 microseconds a grid point: here at most half a second an example.
QUICK = st.one_of(
    st.tuples(st.floats(0.3, 50), st.sampled_from([1, 2])),
    st.tuples(st.floats(0.6, 50), st.just(5)),
    st.tuples(st.floats(5, 50), st.just(50)),
)
ALL = st.tuples(st.floats(0.3, 50), st.sampled_from([1, 2, 5, 50]))


def ours(sigma, rate, grid):
    return sampled_gaussian(noise_multiplier=sigma, sampling_rate=rate, grid=grid)


def reference(sigma, rate, grid):
    """dp-accounting's masses of both directions, which it does not make public."""
    distribution = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=grid
    )
    both = (distribution._pmf_remove, distribution._pmf_add)
    return [pmf.to_dense_pmf() for pmf in both]


def as_pmf(dots, grid):
    return pld_pmf.DensePLDPmf(grid, dots.lower, dots.masses, dots.infinity, True)


def check(sigma, rate, fine):
    """Masses up to the rounding of dp-accounting's divergences near 1, which the grid divides.

    Epsilon down to the smallest deltas, but for rarer sampling, whose losses lie so far below the
    grid that dp-accounting's own rounding shows.
    """
    grid = GRID / fine
    for dots, dense in zip(ours(sigma, rate, grid), reference(sigma, rate, grid), strict=True):
        assert dots.lower == dense._lower_loss
        np.testing.assert_allclose(dots.masses, dense._probs, rtol=1e-9, atol=4e-12 * fine)
        assert dots.infinity == pytest.approx(dense._infinity_mass, rel=1e-5, abs=1e-40)
        for delta in (1e-12, 1e-8, 1e-5, 1e-3) if rate >= 1e-4 else ():
            epsilon = as_pmf(dots, grid).get_epsilon_for_delta(delta)
            expected = dense.get_epsilon_for_delta(delta)
            assert epsilon == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(mechanism=QUICK, rate=RATES)
@settings(max_examples=40)
def test_masses_and_epsilon_are_those_of_dp_accounting(mechanism, rate):
    sigma, fine = mechanism
    check(sigma, rate, fine)


@pytest.mark.slow
@given(mechanism=ALL, rate=RATES)
@settings(max_examples=40)
def test_masses_and_epsilon_are_its_own_on_grids_of_a_million_points(mechanism, rate):
    sigma, fine = mechanism
    check(sigma, rate, fine)


@given(mechanism=ALL, rate=RATES, place=st.floats(-1, 1))
@settings(max_examples=100)
def test_no_divergence_is_below_the_mechanisms_on_and_off_the_grid(mechanism, rate, place):
    sigma, fine = mechanism
    grid, rounding = GRID / fine, 5e-14 * fine  # a mass is a difference of divergences over grid
    kinds = privacy_loss_mechanism.AdjacencyType
    for dots, kind in zip(ours(sigma, rate, grid), (kinds.REMOVE, kinds.ADD), strict=True):
        exact = privacy_loss_mechanism.GaussianPrivacyLoss(
            sigma, sampling_prob=rate, adjacency_type=kind
        ).get_delta_for_epsilon
        bound = as_pmf(dots, grid).get_delta_for_epsilon
        between = place * grid * (dots.lower + dots.masses.size)
        point = round(between / grid) * grid
        assert bound(between) >= exact(between) - rounding
        if point >= dots.lower * grid:
            assert bound(point) == pytest.approx(exact(point), abs=rounding)


@given(
    sigma=st.one_of(st.floats(0.3, 50), st.floats(50, 1e50)),
    rate=st.one_of(RATES, st.floats(1e-50, 1), st.sampled_from([1e-50, 1e-20, 1 - 2**-53])),
    fine=st.sampled_from([1, 2, 5, 50]),
)
def test_the_masses_of_all_losses_are_one_however_extreme_the_mechanism(sigma, rate, fine):
    """On the finer grids dp-accounting's rounding adds up to 1e-7 here."""
    for dots in ours(sigma, rate, GRID / fine):
        assert dots.masses.min() >= 0
        assert 0 <= dots.infinity < 1e-21
        assert dots.masses.sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("first", "masses"), [(0.05, [0.1, 0.55, 0.3]), (0.1, [0, 0.65, 0.3]), (0.11, [0, 0.67, 0.3])]
)
def test_masses_by_hand_and_none_below_zero(first, masses):
    """At exp(loss) = 1/2, 1 and 2 the divergences are 1/2 + `first`, 0.2 and 0.05."""
    dots = _connected(-1, np.array([first, 0.2, 0.05]), np.zeros(3), math.log(2))
    np.testing.assert_allclose(dots.masses, masses, atol=1e-15)
    assert dots.infinity == 0.05


@given(sigma=st.floats(0.3, 50), rate=st.floats(0.5, 1, exclude_max=True))
def test_both_directions_are_one_object_only_when_everyone_takes_part(sigma, rate):
    remove, add = ours(sigma, 1.0, GRID)
    assert remove is add
    remove, add = ours(sigma, rate, GRID)
    assert remove is not add


@pytest.mark.parametrize(
    ("sigma", "rate"),
    [
        *[(sigma, 0.5) for sigma in (-1.0, 0.0, 1e-200, 0.02, math.nan)],
        *[(1.0, rate) for rate in (-0.1, 0.0, 1e-51, 1.0001, math.nan)],
    ],
)
def test_what_is_no_mechanism_or_would_overflow_is_refused(sigma, rate):
    with pytest.raises(PrivacyError, match=f"noise multiplier {sigma} and sampling rate {rate}"):
        ours(sigma, rate, GRID)
