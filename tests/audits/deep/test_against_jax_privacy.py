"""The same bounds as jax-privacy computes (its own tests are of its authors). Skipped without it.

python -m venv /tmp/jax && /tmp/jax/bin/pip install jax-privacy
PRIVET_JAX=/tmp/jax/lib/python3.11/site-packages python -m pytest tests/deep -k jax
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np
import pytest

from privet.audits.lower_bounds import (
    clopper_pearson_bound,
    errors_at,
    gaussian_bound,
    lower_bound,
    p_value,
)

DELTA, ERROR = 1e-5, 0.05


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    if place := os.environ.get("PRIVET_JAX"):
        sys.path.append(place)  # behind what privet itself uses
    return pytest.importorskip("jax_privacy.auditing")


def _scores(seed: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(250) + shift, rng.standard_normal(200)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, 4.0, 20.0])
@pytest.mark.parametrize("threshold", [-0.5, 0.7, 2.0])
def test_clopper_pearson(theirs: ModuleType, shift: float, threshold: float) -> None:
    inside, outside = _scores(1, shift)
    expected = theirs.CanaryScoreAuditor(inside, outside).epsilon_clopper_pearson(
        ERROR, DELTA, one_sided=False, threshold_strategy=theirs.Explicit(threshold)
    )
    found = clopper_pearson_bound(errors_at(threshold, inside, outside), delta=DELTA)
    assert found.epsilon == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shift", [1.5, 2.0, 4.0])
def test_under_the_gaussian_assumption(theirs: ModuleType, shift: float) -> None:
    """Theirs tries all thresholds, each at its share of the error.

    It takes the absolute value of mu (2.0.0), so that upper bounds on error rates which add up to
    more than one count as a difference: scores without any are said to show epsilon 2.9. Where
    there is a clear difference, that changes nothing.
    """
    inside, outside = _scores(2, shift)
    auditor = theirs.CanaryScoreAuditor(inside, outside)
    expected = auditor.epsilon_from_gdp(ERROR, DELTA)
    thresholds = np.append(-np.inf, np.unique(np.concatenate([inside, outside])))
    confidence = 1 - ERROR / len(auditor._fn_counts)
    found = max(
        gaussian_bound(
            errors_at(float(t), inside, outside), delta=DELTA, confidence=confidence
        ).epsilon
        for t in thresholds
    )
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("guesses", [(50, 40), (200, 150), (200, 100), (1000, 1000), (30, 0)])
def test_one_run(theirs: ModuleType, guesses: tuple[int, int]) -> None:
    made, right = guesses
    for epsilon in (0.1, 1.0, 4.0):
        found = p_value(canaries=1000, guesses=made, correct=right, epsilon=epsilon, delta=DELTA)
        expected = theirs._one_run_p_value(1000, made, right, epsilon, DELTA)
        assert found == pytest.approx(float(expected), abs=1e-9)
    bound = lower_bound(canaries=1000, guesses=made, correct=right, delta=DELTA, error=ERROR)
    expected = theirs._epsilon_one_run(0.0, 1000, made, right, ERROR, DELTA)
    assert bound == pytest.approx(float(expected), abs=1e-5)
