"""Bounds from many runs: by hand, on coins of known epsilon, and on a Gaussian of known mu."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from privet.audits.lower_bounds import (
    GAUSSIAN,
    Errors,
    best_threshold,
    clopper_pearson_bound,
    errors_at,
    gaussian_bound,
    gaussian_epsilon,
    roc,
)
from privet.errors import PrivacyError


@pytest.mark.parametrize(("runs", "ceiling"), [(250, 4.21), (500, 4.91), (5000, 7.21)])
def test_even_a_perfect_attack_bounds_only_so_much(runs: int, ceiling: float) -> None:
    found = clopper_pearson_bound(Errors(0, runs, 0, runs), delta=0.0)
    assert found.epsilon == pytest.approx(ceiling, abs=0.005)
    assert found.assumes is None


def test_a_bound_by_hand() -> None:
    """250 runs a side without errors: both rates at most 1 - 0.025 ** (1 / 250)."""
    rate = 1 - 0.025 ** (1 / 250)
    found = clopper_pearson_bound(Errors(0, 250, 0, 250), delta=1e-2)
    assert found.epsilon == pytest.approx(math.log((1 - rate - 1e-2) / rate), rel=1e-9)


def test_both_kinds_of_errors_count_alike() -> None:
    one, other = Errors(3, 100, 60, 100), Errors(60, 100, 3, 100)
    for bound in (clopper_pearson_bound, gaussian_bound):
        assert bound(one, delta=1e-5).epsilon == pytest.approx(bound(other, delta=1e-5).epsilon)


def test_guesses_without_knowledge_bound_nothing() -> None:
    for bound in (clopper_pearson_bound, gaussian_bound):
        assert bound(Errors(50, 100, 50, 100), delta=1e-5).epsilon == 0.0
        assert bound(Errors(100, 100, 0, 100), delta=1e-5).epsilon == 0.0


def test_randomised_response_is_refuted_no_more_often_than_promised() -> None:
    """A bit that is kept with probability e / (1 + e) is exactly 1-differentially private."""
    keep = 1 / (1 + math.exp(-1.0))
    refuted = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        wrong = rng.binomial(400, 1 - keep, size=2)
        errors = Errors(int(wrong[0]), 400, int(wrong[1]), 400)
        refuted += clopper_pearson_bound(errors, delta=0.0).refutes(1.0)
    assert refuted <= stats.binom.isf(1e-3, 1000, 0.05)


def errors_of_second_half(inside: np.ndarray, outside: np.ndarray, assumes: str) -> Errors:
    """Of the threshold that the first half chooses."""
    a, b = len(inside) // 2, len(outside) // 2
    threshold = best_threshold(inside[:a], outside[:b], assumes=assumes)
    return errors_at(threshold.at, inside[a:], outside[b:])


@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_a_gaussian_is_bounded_below_its_epsilon_and_near_it(mu: float) -> None:
    """Balle & Wang 2018: what the threshold attack at every t says is an equality."""
    true = gaussian_epsilon(mu, 1e-5)
    t = np.linspace(-5, 5 + mu, 20_001)
    hockey = stats.norm.sf(t - mu) - np.exp(true) * stats.norm.sf(t)
    assert hockey.max() == pytest.approx(1e-5, rel=1e-3)
    rng = np.random.default_rng(1)
    inside, outside = mu + rng.standard_normal(20_000), rng.standard_normal(20_000)
    errors = errors_of_second_half(inside, outside, GAUSSIAN)
    found = gaussian_bound(errors, delta=1e-5)
    assert found.assumes == GAUSSIAN
    assert 0.8 * true < found.epsilon < true
    assert clopper_pearson_bound(errors, delta=1e-5).epsilon < found.epsilon


def test_the_gaussian_bound_keeps_its_confidence() -> None:
    mu, refuted = 1.0, 0
    true = gaussian_epsilon(mu, 1e-5)
    for seed in range(300):
        rng = np.random.default_rng(seed)
        inside, outside = mu + rng.standard_normal(200), rng.standard_normal(200)
        errors = errors_of_second_half(inside, outside, GAUSSIAN)
        refuted += gaussian_bound(errors, delta=1e-5).refutes(true)
    assert refuted <= stats.binom.isf(1e-3, 300, 0.05)


def test_no_difference_costs_no_epsilon() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(-1.0, 1e-5) == 0.0
    assert gaussian_epsilon(1e-7, 1e-5) == 0.0


def test_a_threshold_and_its_errors_by_hand() -> None:
    threshold = best_threshold(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    assert threshold.at == 2.0
    found = errors_at(threshold.at, np.array([1.0, 8.0]), np.array([7.0, 0.0]))
    assert found == Errors(false_positives=1, out=2, false_negatives=1, in_=2)


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(PrivacyError, match="two runs"):
        best_threshold(np.zeros(0), np.zeros(5))
    with pytest.raises(PrivacyError, match="that are numbers"):
        errors_at(0.0, np.zeros(5), np.array([0.0, 1.0, np.nan]))


def test_a_roc_curve_by_hand() -> None:
    false, true = roc(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    assert false.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert true.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
