"""The cost of choosing: against exact distributions, dp-accounting, and what the paper states."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from privet.errors import PrivacyError
from privet.privacy.accounting.events import dp_sgd_event
from privet.privacy.accounting.spending import epsilon
from privet.privacy.accounting.tuning import (
    ORDERS,
    RandomRuns,
    rdp_epsilon,
    run_rdp,
    selection_rdp,
)

LAWS = ("geometric", "logarithmic", "poisson")
EVENT = dp_sgd_event(noise_multiplier=1.0, sampling_rate=0.05, steps=200)


def _generating(runs: RandomRuns, s: np.ndarray) -> np.ndarray:
    """The probability generating function of the number of runs, from the textbook."""
    if runs.law == "poisson":
        return np.exp(runs.mean * (s - 1))
    gamma = runs.gamma
    if runs.law == "geometric":
        return gamma * s / (1 - (1 - gamma) * s)
    return np.log(1 - (1 - gamma) * s) / math.log(gamma)


def _released(runs: RandomRuns, run: np.ndarray) -> np.ndarray:
    """The exact law of the best of K runs whose outcomes, in the order of their score, have `run`.

    All K outcomes are at most the i-th with probability E[F_i^K]. The first entry: no run at all.
    """
    below = np.concatenate([[0.0], np.cumsum(run)])
    below[-1] = 1.0
    values = _generating(runs, below)
    return np.concatenate([values[:1], np.diff(values)])


def _divergence(p: np.ndarray, q: np.ndarray, order: float) -> float:
    keep = p > 0
    terms = order * np.log(p[keep]) + (1 - order) * np.log(q[keep])
    return max(0.0, float(logsumexp(terms) / (order - 1)))  # rounding may go below


def _both_ways(p: np.ndarray, q: np.ndarray, order: float) -> tuple[float, float]:
    return _divergence(p, q, order), _divergence(q, p, order)


@settings(max_examples=60)
@given(
    weights=st.lists(st.tuples(st.floats(0.05, 1), st.floats(-1, 1)), min_size=2, max_size=6),
    law=st.sampled_from(LAWS),
    mean=st.floats(1.5, 40),
)
def test_the_exact_release_costs_no_more(
    weights: list[tuple[float, float]], law: str, mean: float
) -> None:
    """A mechanism with a handful of outcomes on two neighbours, and every order from 1.5 to 32."""
    runs = RandomRuns(law, mean)
    first = np.array([weight for weight, _ in weights])
    second = first * np.exp([0.5 * change for _, change in weights])
    first, second = first / first.sum(), second / second.sum()
    orders = np.array([1.5, 2, 3, 4, 6, 8, 12, 16, 32])
    run = np.array([max(_both_ways(first, second, order)) for order in orders])
    best = _released(runs, first), _released(runs, second)
    exact = np.array([max(_both_ways(*best, order)) for order in orders])
    assert np.all(exact <= selection_rdp(run, runs, orders=orders) + 1e-9)


@pytest.mark.parametrize("tiny", [0.0, 1e-300, 1e-17, 1e-15])
@pytest.mark.parametrize("law", LAWS)
def test_a_run_that_costs_next_to_nothing_has_a_bound(law: str, tiny: float) -> None:
    orders = np.array([1.5, 2.0, 32.0])
    bound = selection_rdp(np.full(3, tiny), RandomRuns(law, 2.0), orders=orders)
    assert np.isfinite(bound).all()


def test_the_bound_is_not_far_above_an_exact_release() -> None:
    """Else a bound that is far too large would pass as well."""
    runs, orders = RandomRuns("geometric", 10), np.array([2.0, 8, 32, 128])
    pair = np.array([0.7, 0.3]), np.array([0.6, 0.4])
    run = np.array([max(_both_ways(*pair, order)) for order in orders])
    exact = max(_both_ways(*(_released(runs, each) for each in pair), 128))
    assert exact <= selection_rdp(run, runs, orders=orders)[-1] <= 2.5 * exact


@pytest.mark.parametrize(("law", "factor"), [("logarithmic", 2), ("geometric", 3)])
def test_a_pure_guarantee_is_multiplied_by_two_plus_eta(law: str, factor: int) -> None:
    """The paper's corollary for pure epsilon, which is the limit of large orders."""
    orders = np.array([2.0, 1e7])
    curve = selection_rdp(np.array([0.3, 0.3]), RandomRuns(law, 10), orders=orders)
    assert curve[-1] == pytest.approx(factor * 0.3, rel=1e-4)


@pytest.mark.parametrize(("law", "shape"), zip(LAWS, (1.0, 0.0, math.inf), strict=True))
def test_dp_accounting_agrees(law: str, shape: float) -> None:
    accountant = RdpAccountant(ORDERS)
    accountant.compose(RepeatAndSelectDpEvent(EVENT, mean=10, shape=shape))
    found = rdp_epsilon(selection_rdp(run_rdp(EVENT), RandomRuns(law, 10)), delta=1e-5)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


def test_choosing_costs_more_than_a_run_and_grows_with_their_number() -> None:
    run = run_rdp(EVENT)
    one = rdp_epsilon(run, delta=1e-5)
    assert one >= epsilon([EVENT], delta=1e-5)
    for law in LAWS:
        few, many = (
            rdp_epsilon(selection_rdp(run, RandomRuns(law, mean)), delta=1e-5) for mean in (10, 100)
        )
        assert one < few < many
        if law != "poisson":
            assert many < rdp_epsilon(10 * run, delta=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_the_law(law: str) -> None:
    """Mean within five standard errors over 20,000 draws, and P(K = 1) (level about 1e-6)."""
    runs, rng = RandomRuns(law, 10), np.random.default_rng(7)
    drawn = np.array([runs.draw(rng) for _ in range(20_000)])
    assert abs(drawn.mean() - 10) < 5 * drawn.std() / math.sqrt(len(drawn))
    zero, step = _generating(runs, np.array([0.0])), 1e-6
    once = float((_generating(runs, np.array([step])) - zero)[0]) / step
    assert abs(np.mean(drawn == 1) - once) < 5 * math.sqrt(once / len(drawn))
    assert drawn.min() >= (0 if law == "poisson" else 1)


@pytest.mark.parametrize(("law", "mean"), [("binomial", 10), ("geometric", 1), ("poisson", 0.5)])
def test_impossible_laws_are_refused(law: str, mean: float) -> None:
    with pytest.raises(PrivacyError, match="private tuning: "):
        RandomRuns(law, mean)
