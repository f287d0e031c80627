"""A ROC beside its claim: the curve that no attack passes, and the band of what was counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from privet.audits.lower_bounds import gaussian_epsilon, roc
from privet.reports.audit.figures import Roc, interval, most_true, roc_chart

RATES = np.linspace(0, 1, 101)
shares = st.floats(0, 1)


@given(epsilon=st.floats(0, 50), delta=shares)
def test_what_is_allowed_rises_and_is_never_below_guessing(epsilon: float, delta: float) -> None:
    held = most_true(RATES, epsilon=epsilon, delta=delta)
    assert (held >= RATES - 1e-12).all()
    assert (np.diff(held) >= -1e-12).all()
    assert held[-1] == pytest.approx(1.0)
    assert held.max() <= 1.0


@given(epsilon=st.floats(0, 20), delta=st.floats(0, 0.5), fpr=shares)
def test_what_is_allowed_keeps_the_promise_both_ways(
    epsilon: float, delta: float, fpr: float
) -> None:
    tpr = float(most_true(np.array([fpr]), epsilon=epsilon, delta=delta)[0])
    assert tpr <= math.exp(epsilon) * fpr + delta + 1e-9
    assert 1 - fpr <= math.exp(epsilon) * (1 - tpr) + delta + 1e-9 * math.exp(epsilon)


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_a_gaussian_mechanism_stays_below_its_own_curve(mu: float) -> None:
    delta = 1e-5
    held = most_true(RATES, epsilon=gaussian_epsilon(mu, delta), delta=delta)
    best = norm.cdf(norm.ppf(RATES) + mu)
    assert (best <= held + 1e-9).all()
    assert (best > most_true(RATES, epsilon=0.1 * mu, delta=delta) + 0.01).any()


def test_without_privacy_every_attack_is_allowed() -> None:
    assert (most_true(RATES, epsilon=math.inf, delta=0.0)[1:] == 1.0).all()


@given(count=st.integers(0, 40), total=st.integers(1, 40), confidence=st.sampled_from([0.9, 0.95]))
def test_intervals_are_the_exact_ones(count: int, total: int, confidence: float) -> None:
    count = min(count, total)
    low, high = interval(np.array([count / total]), total, confidence)
    exact = binomtest(count, total).proportion_ci(confidence, method="exact")
    assert (low[0], high[0]) == pytest.approx((exact.low, exact.high), abs=1e-9)


def drawn(scores_in: np.ndarray, scores_out: np.ndarray, **more: object) -> Roc:
    false, true = roc(scores_in, scores_out)
    given = {"epsilon": 1.0, "delta": 1e-5, **more}
    return Roc("attack", false, true, len(scores_in), len(scores_out), **given)  # type: ignore[arg-type]


def places(chart_of: Roc, style: str) -> list[tuple[float, float]]:
    """In per cent from the left and from the bottom."""
    (shape,) = (each for each in roc_chart(chart_of).shapes if style in each.style.split())
    (part,) = shape.parts
    return list(part)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_band_holds_for_both_rates_together(confidence: float) -> None:
    attack = Roc("attack", [0.0, 0.1, 1.0], [0.0, 0.5, 1.0], 40, 50, 1.0, 0.0, None, confidence)
    false, true = (
        binomtest(count, total).proportion_ci((1 + confidence) / 2, method="exact")
        for count, total in ((5, 50), (20, 40))
    )
    band = places(attack, "band")
    for fpr, tpr in ((false.low, true.high), (false.high, true.low)):
        x, y = 100 + 50 * math.log10(fpr), 100 + 50 * math.log10(tpr)  # from 0.01 to 1
        assert any((x, y) == pytest.approx(corner, abs=0.005) for corner in band)


def test_an_attack_that_knows_lies_above_the_claim_and_one_that_guesses_does_not() -> None:
    random = np.random.default_rng(1)
    guesses = drawn(random.normal(size=2000), random.normal(size=2000))
    knows = drawn(random.normal(4, size=2000), random.normal(size=2000))
    for attack, refutes in ((guesses, False), (knows, True)):
        limit = dict(places(attack, "limit"))
        across = np.array(sorted(limit))
        band = places(attack, "band")
        lower = band[len(band) // 2 : -1]  # its way back: right ends of false, low ends of true
        held = np.interp([x for x, _ in lower], across, [limit[x] for x in across])
        above = [y > bar + 0.2 for (_, y), bar in zip(lower, held, strict=True)]
        assert any(above) is refutes


@given(
    scores=st.lists(st.floats(-9, 9), min_size=2, max_size=30),
    epsilon=st.floats(0, 1000) | st.just(math.inf),
    delta=shares,
)
def test_any_attack_is_drawn_within_its_frame(
    scores: list[float], epsilon: float, delta: float
) -> None:
    half = len(scores) // 2
    attack = drawn(np.array(scores[:half]), np.array(scores[half:]), epsilon=epsilon, delta=delta)
    styles = [shape.style.split()[-1] for shape in roc_chart(attack).shapes]
    assert styles == ["band", "chance", "limit", "attack"]
    for style in ("band", "attack", "limit"):
        for x, y in places(attack, style):
            assert 0 <= x <= 100
            assert 0 <= y <= 100
