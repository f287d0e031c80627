import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import PrivacyError
from privet.privacy.accounting import dp_sgd_event, epsilon, noise_multiplier_for


def cost(noise_multiplier, sampling_rate, steps, delta):
    event = dp_sgd_event(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps
    )
    return epsilon([event], delta=delta)


@given(
    target=st.floats(0.05, 20),
    rate=st.floats(0.005, 1.0),
    steps=st.integers(1, 5000),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
)
@settings(max_examples=15, deadline=None)
def test_the_result_meets_the_target_and_wastes_less_than_half_a_percent(
    target, rate, steps, delta
):
    sigma = noise_multiplier_for(epsilon=target, delta=delta, sampling_rate=rate, steps=steps)
    spent = cost(sigma, rate, steps, delta)
    assert spent <= target
    # One unit of the result's four decimals may already be half a percent of a small sigma.
    assert spent >= 0.995 * target or cost(sigma - 1e-4, rate, steps, delta) > target
    assert sigma == round(sigma, 4)


@pytest.mark.parametrize(("target", "sigma"), [(1, 10.85), (2, 5.84), (4, 3.24), (8, 1.89)])
def test_reference_calibrations(target, sigma):
    found = noise_multiplier_for(epsilon=target, delta=1e-5, sampling_rate=1 / 12, steps=1200)
    assert found == pytest.approx(sigma, rel=6e-3)


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(50.0, 0.44, 120), (1e-4, 0.5, 100), (1.0, 1.0, 10_000)]
)
def test_the_ends_of_the_range(target, rate, steps):
    sigma = noise_multiplier_for(epsilon=target, delta=1e-5, sampling_rate=rate, steps=steps)
    assert 0.994 * target <= cost(sigma, rate, steps, 1e-5) <= target


@pytest.mark.parametrize("target", [0.0, -1.0, 201.0, math.inf, math.nan])
def test_impossible_targets_name_the_setting(target):
    with pytest.raises(PrivacyError, match=r"privacy\.epsilon"):
        noise_multiplier_for(epsilon=target, delta=1e-5, sampling_rate=0.1, steps=10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": 0.0}, r"privacy\.delta"),
        ({"delta": 1.0}, r"privacy\.delta"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"steps": 0}, "steps"),
    ],
)
def test_other_impossible_parameters_are_named(changed, message):
    fine = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "steps": 10}
    with pytest.raises(PrivacyError, match=message):
        noise_multiplier_for(**{**fine, **changed})
