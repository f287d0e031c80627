"""The one-run bound against the paper's procedure, and on mechanisms right or wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from audits.mechanism.made import sightings
from privet.audits.lower_bounds import View, lower_bound, one_run_bound, p_value, score
from privet.errors import PrivacyError
from privet.privacy.accounting import noise_multiplier_for

DELTA = 1e-5


def naive_p_value(m: int, r: int, v: int, eps: float, delta: float) -> float:
    """Steinke, Nasr & Jagielski 2023, appendix D: m examples, r guesses, v correct; as a loop."""
    q = 1 / (1 + math.exp(-eps))
    beta = stats.binom.sf(v - 1, r, q)
    alpha, total = 0.0, 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        if total > i * alpha:
            alpha = total / i
    return min(beta + alpha * delta * 2 * m, 1)


@st.composite
def audits(draw: st.DrawFn) -> tuple[int, int, int]:
    canaries = draw(st.integers(1, 300))
    guesses = draw(st.integers(0, canaries))
    return canaries, guesses, draw(st.integers(0, guesses))


@settings(max_examples=60)
@given(audits(), st.floats(0, 10), st.sampled_from([0.0, 1e-8, 1e-5, 1e-2, 1.0]))
def test_p_values_are_the_papers(audit: tuple[int, int, int], eps: float, delta: float) -> None:
    canaries, guesses, correct = audit
    found = p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=eps, delta=delta)
    assert found == pytest.approx(naive_p_value(*audit, eps, delta), abs=1e-12)


@settings(max_examples=40)
@given(audits())
def test_the_bound_is_where_the_p_value_crosses_the_error(audit: tuple[int, int, int]) -> None:
    canaries, guesses, correct = audit
    found = lower_bound(
        canaries=canaries, guesses=guesses, correct=correct, delta=DELTA, error=0.05
    )
    assert found == 0 or naive_p_value(*audit, found, DELTA) <= 0.05
    assert naive_p_value(*audit, found + 1e-4, DELTA) >= 0.05


@pytest.mark.parametrize(("canaries", "ceiling"), [(200, 4.19), (1000, 5.78), (5000, 7.28)])
def test_even_a_perfect_attack_bounds_only_so_much(canaries: int, ceiling: float) -> None:
    found = lower_bound(
        canaries=canaries, guesses=canaries, correct=canaries, delta=DELTA, error=0.05
    )
    assert found == pytest.approx(ceiling, abs=0.005)


def test_guesses_without_knowledge_bound_nothing() -> None:
    refuted = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores, inserted = rng.standard_normal(300), rng.random(300) < 0.5
        refuted += one_run_bound(scores, inserted, delta=0.0).refutes(0.0)
    assert refuted <= stats.binom.isf(1e-3, 200, 0.05)


def test_without_noise_the_bound_is_near_its_ceiling() -> None:
    inserted = np.random.default_rng(1).random(1000) < 0.5
    found = one_run_bound(inserted.astype(float), inserted, delta=DELTA)
    assert 4.4 < found.epsilon < 5.78
    assert found.correct == found.guesses
    assert found.refutes(4.0)
    assert not found.refutes(8.0)


@pytest.mark.parametrize("view", ["steps", "updates", "model"])
def test_a_weak_noise_is_refuted_and_the_right_one_is_not(view: View) -> None:
    claimed = 2.0
    sigma = noise_multiplier_for(epsilon=claimed, delta=DELTA, sampling_rate=0.1, steps=100)
    for real, refuted in ((sigma, False), (sigma / 10, True)):
        made = sightings(
            2,
            silos=10,
            rounds=10,
            steps=10,
            coordinates=100,
            rate=0.1,
            sigma=sigma,
            real_sigma=real,
        )
        found = score(made, view=view)
        bound = one_run_bound(found.scores, found.inserted, delta=DELTA)
        assert bound.refutes(claimed) is refuted


def test_who_sees_more_can_tell_more() -> None:
    """Of each view, how often a canary that is in scores above one that is out."""
    made = sightings(4, silos=10, rounds=40, steps=5, coordinates=200, rate=0.02, sigma=0.6)
    areas = []
    for view in ("steps", "updates", "model"):
        found = score(made, view=view)  # type: ignore[arg-type]
        inside, outside = found.scores[found.inserted], found.scores[~found.inserted]
        areas.append(stats.mannwhitneyu(inside, outside).statistic / inside.size / outside.size)
    assert areas[0] > areas[1] + 0.02
    assert areas[1] > areas[2] + 0.01
    assert areas[2] > 0.6


def test_a_score_of_one_step_by_hand() -> None:
    """log(1 - q + q exp((y - 1/2) / sigma^2)), y the noisy sum over the clip norm."""
    made = sightings(1, silos=1, rounds=1, steps=3, coordinates=5, rate=0.2, sigma=0.8)
    sums = made[0].gradients.astype(float) * 50.0 / 2.0
    expected = np.log(0.8 + 0.2 * np.exp((sums - 0.5) / 0.64)).sum(axis=0)
    np.testing.assert_allclose(score(made, view="steps").scores, expected, rtol=1e-9)


def test_what_bounds_nothing_is_refused() -> None:
    with pytest.raises(PrivacyError, match="needs canaries"):
        one_run_bound(np.zeros(0), np.zeros(0, dtype=bool), delta=DELTA)
    with pytest.raises(PrivacyError, match="needs canaries"):
        one_run_bound(np.array([np.nan]), np.array([True]), delta=DELTA)
    with pytest.raises(PrivacyError, match="4 of 3 guesses"):
        p_value(canaries=5, guesses=3, correct=4, epsilon=1.0, delta=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 2.0, 4.0, 8.0])
def test_no_bound_of_a_hundred_exceeds_a_true_claim(epsilon: float) -> None:
    """At a confidence of 95 % some may; the bound is far from tight, so none does."""
    rate, steps = 0.05, 200
    sigma = noise_multiplier_for(epsilon=epsilon, delta=DELTA, sampling_rate=rate, steps=steps)
    law = {"silos": 10, "rounds": 10, "steps": 20, "coordinates": 100, "rate": rate}
    for seed in range(100):
        found = score(sightings(seed, sigma=sigma, **law), view="steps")  # type: ignore[arg-type]
        assert not one_run_bound(found.scores, found.inserted, delta=DELTA).refutes(epsilon)
