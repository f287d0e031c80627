"""Thresholds, scores and what a claim allows, on numbers whose law is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from scipy import stats

from privet.audits.deep.attacks import Attack, PrivacyProfile, attacks_on, best_of, curve_of
from privet.audits.deep.training import Observations, assignments
from privet.audits.lower_bounds import Errors
from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment

DELTA = 1e-5


def attack(seed: int, mu: float, *, models: int = 400, name: str = "outlier") -> Attack:
    """Scores of a Gaussian mechanism of noise multiplier 1 / mu that all but releases them."""
    rng = np.random.default_rng(seed)
    inserted = assignments(models, 1, seed=seed)[:, 0]
    return Attack(
        "updates", name, "dot product", rng.standard_normal(models) + mu * inserted, inserted
    )


def profile(mu: float) -> PrivacyProfile:
    return PrivacyProfile.of([Segment(1 / mu, 1.0, 1)])


def test_a_mechanism_that_keeps_its_promise_is_seldom_refuted() -> None:
    """At the limit of what is allowed: the scores are what the mechanism releases."""
    promised, refuted = profile(1.0), 0
    for seed in range(300):
        errors = best_of([attack(seed, 1.0)], delta=DELTA)[1].bound.errors
        refuted += not promised.allows(errors)
    assert refuted <= stats.binom.isf(1e-3, 300, 0.01)


def test_trying_many_attacks_does_not_make_a_bound_wrong() -> None:
    """Twenty attacks that know nothing: the best is counted on models that did not choose it."""
    above = 0
    for seed in range(50):
        many = [attack(1000 * seed + number, 0.0, models=200) for number in range(20)]
        above += best_of(many, delta=0.0)[0].bound.epsilon > 0
    assert above <= stats.binom.isf(1e-3, 50, 0.05)


def test_twice_the_promised_distance_is_refuted() -> None:
    errors = best_of([attack(1, 2.0)], delta=DELTA)[1].bound.errors
    assert profile(2.0).allows(errors)
    assert not profile(1.0).allows(errors)


def test_the_first_half_chooses_and_the_second_counts() -> None:
    poor, good = attack(1, 0.2, name="poor"), attack(2, 2.0, name="good")
    pure, gaussian = best_of([poor, good], delta=DELTA)
    assert pure.attack is good
    assert gaussian.attack is good
    spoilt = good.scores.copy()
    spoilt[200:] = 0.0
    again = best_of([poor, replace(good, scores=spoilt)], delta=DELTA)
    assert [each.threshold for each in again] == [pure.threshold, gaussian.threshold]
    assert all(each.bound.epsilon == 0.0 for each in again)


def test_a_finding_by_hand() -> None:
    inserted = np.array([True, False, True, False] * 2)
    scores = np.array([2.0, 1.0, 3.0, 0.0, 2.0, 1.5, 0.5, 0.0])
    found = best_of([Attack("model", "outlier", "loss", scores, inserted)], delta=DELTA)[0]
    assert found.threshold == 1.0
    assert found.bound.errors == Errors(false_positives=1, out=2, false_negatives=1, in_=2)


def test_a_curve_by_hand() -> None:
    inserted = np.array([True, False, True, False] * 2)
    scores = np.array([9.0, 9.0, 9.0, 9.0, 3.0, 1.0, 0.5, 0.0])
    found = curve_of(Attack("model", "outlier", "loss", scores, inserted))
    assert found.false_positive_rates == (0.0, 0.5, 1.0)
    assert found.true_positive_rates == (0.5, 1.0, 1.0)


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 1.0, 1), (2.0, 0.3, 40)])
def test_no_attack_is_allowed_beyond_what_dp_accounting_allows(
    sigma: float, rate: float, steps: int
) -> None:
    """Its delta(epsilon), on a fine grid, bounds true-positive rates nearly as privet's do."""
    event = GaussianDpEvent(sigma)
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    sampled = PoissonSampledDpEvent(rate, event) if rate < 1 else event
    accountant.compose(SelfComposedDpEvent(sampled, steps))
    points = [(e, float(accountant.get_delta(e))) for e in np.linspace(0, 6, 121)]
    expected = PrivacyProfile(tuple(points))
    found = PrivacyProfile.of([Segment(sigma, rate, steps)])
    for false in (1e-3, 0.01, 0.1, 0.4, 0.9):
        assert found.largest(false) == pytest.approx(expected.largest(false), abs=0.006)
        if rate == 1.0:
            exact = stats.norm.sf(stats.norm.isf(false) - 1 / sigma)
            assert exact <= found.largest(false) < exact + 0.01


def test_without_a_promise_everything_is_allowed() -> None:
    none = PrivacyProfile.of([Segment(0.0, 1.0, 3)])
    assert none.largest(1e-4) == 1.0
    assert none.allows(Errors(0, 1000, 0, 1000))


def test_the_likelihood_ratio_is_that_of_the_shadows() -> None:
    rng = np.random.default_rng(3)
    inserted = assignments(60, 1, seed=3)
    losses = rng.gamma(2.0, 0.5, (60, 1))
    ratio = next(
        a
        for a in attacks_on(Observations(inserted, losses, losses), ["outlier"])
        if a.score[:2] == "li"
    )
    p = np.exp(-losses[:, 0])
    logits = np.log(p / (1 - p))
    shadows = logits[:30]
    laws = [
        stats.norm(shadows[bits].mean(), shadows[bits].std())
        for bits in (inserted[:30, 0], ~inserted[:30, 0])
    ]
    expected = laws[0].logpdf(logits) - laws[1].logpdf(logits)
    np.testing.assert_allclose(ratio.scores, expected, rtol=1e-9, atol=1e-9)


def test_losses_of_nothing_and_of_everything_have_a_ratio() -> None:
    losses = np.array([[0.0], [800.0], [0.0], [1e-20]] * 10)
    found = attacks_on(Observations(assignments(40, 1, seed=1), losses, losses), ["outlier"])
    assert all(np.isfinite(each.scores).all() for each in found)


def test_models_that_are_none_are_refused() -> None:
    losses = np.full((40, 1), math.nan)
    with pytest.raises(PrivacyError, match="diverged"):
        attacks_on(Observations(assignments(40, 1, seed=1), np.zeros((40, 1)), losses), ["outlier"])
