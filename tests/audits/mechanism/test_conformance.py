"""The claimed law is accepted, and everything else is not. Seeds are fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, kstest

from audits.mechanism.made import sightings
from privet.audits.laws import Check, Conformance
from privet.audits.mechanism import conformance
from privet.errors import PrivacyError


@pytest.mark.parametrize(
    "law",
    [
        {"silos": 3, "rounds": 3},
        {"silos": 2, "rounds": 3, "steps": 4, "coordinates": 30, "rate": 0.01, "sigma": 0.4},
        {"silos": 1, "rounds": 2, "steps": 5, "coordinates": 20, "rate": 1.0, "sigma": 5.0},
        {"silos": 3, "rounds": 4, "steps": 8, "coordinates": 40, "rate": 0.02},
        {"silos": 1, "rounds": 1, "steps": 3, "coordinates": 40, "rate": 0.05},
    ],
    ids=["usual", "rare", "everyone", "seldom", "few"],
)
def test_a_correct_mechanism_fails_as_rarely_as_the_level_says(law: dict[str, float]) -> None:
    failed = sum(
        not conformance(sightings(seed, **law), level=0.05).conforms  # type: ignore[arg-type]
        for seed in range(100)
    )
    # At a level of 0.05 more failures than this would come once in 1,000 such tests.
    assert failed <= binom.isf(1e-3, 100, 0.05)


def test_p_values_of_a_correct_mechanism_are_uniform() -> None:
    found: dict[str, list[float]] = {}
    for seed in range(100):
        for check in conformance(sightings(seed, rounds=4)).checks:
            found.setdefault(check.name, []).append(check.p_value)
    del found["repeats"]  # 1 unless something impossible happens
    for name, p_values in found.items():
        if name in ("tail", "grid", "again-elsewhere", "again-within") or "sampling" in name:
            # Counts have steps, and bounds lie above; they are not too often too small.
            assert np.mean(np.array(p_values) < 0.05) <= binom.isf(1e-3, 100, 0.05) / 100, name
        else:
            assert kstest(p_values, "uniform").pvalue > 1e-3, name


@pytest.mark.parametrize("ratio", [0.99, 1.01])
def test_noise_that_is_one_per_cent_off_is_found(ratio: float) -> None:
    wrong = sightings(3, silos=10, rounds=20, coordinates=100, real_sigma=ratio)
    assert conformance(wrong).failed[0].name == "noise"


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_records_that_are_sampled_otherwise_are_found(ratio: float) -> None:
    wrong = sightings(3, silos=10, rounds=20, coordinates=100, real_rate=ratio / 12)
    assert conformance(wrong).failed[0].name == "sampling"


def test_one_step_whose_noise_is_used_again_is_found() -> None:
    made = sightings(5)
    again = made[7].gradients.copy()
    noise = made[2].gradients[4] - made[2].sampled[4] * 2.0 / 50.0
    again[9] = noise + made[7].sampled[9] * 2.0 / 50.0
    made[2], made[7] = made[2], replace(made[7], silo=made[2].silo, round=99, gradients=again)
    failed = {check.name for check in conformance(made).failed}
    assert failed == {"repeats", "again-elsewhere"}


def test_another_divisor_is_found() -> None:
    made = [replace(each, gradients=each.gradients * 1.05) for each in sightings(4)]
    assert "noise" in [check.name for check in conformance(made).failed]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_fails(value: float) -> None:
    made = sightings(1, silos=1, rounds=1)
    made[0].gradients[3, 4] = value
    assert [check.name for check in conformance(made).failed] == ["finite"]


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no canary was seen"):
        conformance([])
    made = sightings(1, silos=1, rounds=1)
    with pytest.raises(PrivacyError, match="claims no privacy"):
        conformance([replace(made[0], plan=replace(made[0].plan, noise_multiplier=0.0))])
    with pytest.raises(PrivacyError, match="differently many"):
        conformance(made + sightings(1, silos=1, rounds=1, coordinates=7))


def test_holms_procedure() -> None:
    """By hand: 0.001 <= 0.05 / 4, 0.015 <= 0.05 / 3, 0.03 > 0.05 / 2; the rest stands."""
    checks = [Check(str(p), "", p, 0.0, 0.0) for p in (0.03, 0.001, 0.04, 0.015)]
    found = Conformance(0.05, tuple(checks), 1, 1)
    assert [check.p_value for check in found.failed] == [0.001, 0.015]
    assert found.p_value == pytest.approx(0.004)
