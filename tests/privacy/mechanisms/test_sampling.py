import math
from fractions import Fraction

import dp_accounting as dpa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privet.errors import DataError, PrivacyError
from privet.privacy.mechanisms import DpSgd, local_steps, sampling_rate


def plan(n_records=600, batch_size=50, epochs=1, **changes):
    return DpSgd.over(
        n_records, batch_size=batch_size, epochs=epochs, noise_multiplier=1.0, clip=1.0, **changes
    )


@pytest.mark.parametrize(
    ("n_records", "batch_size", "rate", "steps"),
    [
        (93, 1, 1 / 93, 93),  # int(1 / (1 / 93)) is 92
        (99, 1, 1 / 99, 99),
        (105, 1, 1 / 105, 105),
        (65, 64, 64 / 65, 2),  # 1 / len(loader) would be 0.5
        (600, 64, 64 / 600, 10),
        (30, 64, 1.0, 1),
        (1, 64, 1.0, 1),
        (64, 64, 1.0, 1),
    ],
)
def test_rate_and_steps_are_exact_for_awkward_sizes(n_records, batch_size, rate, steps):
    assert sampling_rate(n_records, batch_size) == rate
    assert local_steps(n_records, batch_size, 1) == steps
    assert local_steps(n_records, batch_size, 7) == 7 * steps
    made = plan(n_records, batch_size, 7)
    assert made.batch_size == min(n_records, batch_size)
    event = made.event()
    assert event.count == 7 * steps
    assert event.event.sampling_probability == rate


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(1, 10**4))
def test_steps_are_integer_arithmetic(n_records, batch_size, epochs):
    expected = math.ceil(Fraction(n_records, batch_size)) * epochs
    assert local_steps(n_records, batch_size, epochs) == expected
    rate = sampling_rate(n_records, batch_size)
    assert 0 < rate <= 1
    assert rate * n_records == pytest.approx(min(batch_size, n_records), rel=1e-12)


def test_zero_records_are_refused():
    with pytest.raises(DataError, match="0 records"):
        sampling_rate(0, 64)
    with pytest.raises(DataError, match="0 records"):
        local_steps(0, 64, 1)
    with pytest.raises(PrivacyError, match="batch_size = 0"):
        sampling_rate(10, 0)
    with pytest.raises(PrivacyError, match="epochs = 0"):
        local_steps(10, 5, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clip": 0.0}, "clip = 0"),
        ({"clip": math.inf}, "clip = inf"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1"),
        ({"sampling_rate": 0.0}, "sampling_rate = 0"),
        ({"steps": -1}, "steps = -1"),
    ],
)
def test_a_plan_of_impossible_values_is_refused(changed, message):
    fine = {
        "noise_multiplier": 1.0,
        "clip": 1.0,
        "sampling_rate": 0.1,
        "steps": 10,
        "batch_size": 60,
    }
    with pytest.raises(PrivacyError, match=message):
        DpSgd(**{**fine, **changed})


def test_the_event_follows_what_ran():
    made = plan()
    assert made.event().count == 12
    assert made.event(5).count == 5
    assert made.event(0) == dpa.NoOpDpEvent()


def test_batches_are_poisson_samples():
    """Every record in each step by its own coin: chi-square tests at level 1e-6, fixed seed."""
    made = plan(200, 20, epochs=400)
    rows = np.zeros((made.steps, 200))
    for row, batch in zip(rows, made.batches(200, np.random.default_rng(1)), strict=True):
        row[batch] = 1
    per_record = rows.sum(0)
    assert stats.chisquare(per_record).pvalue > 1e-6
    sizes = rows.sum(1)
    assert sizes.mean() == pytest.approx(20, abs=5 * math.sqrt(18 / made.steps))
    # A fixed batch size has variance 0, Poisson sampling n q (1 - q) = 18.
    statistic = ((sizes - 20) ** 2).sum() / 18
    assert 1e-6 < stats.chi2.cdf(statistic, made.steps) < 1 - 1e-6


def test_empty_batches_are_steps():
    made = plan(50, 1, epochs=4)
    batches = list(made.batches(50, np.random.default_rng(1)))
    assert len(batches) == made.steps == 200
    assert sum(len(batch) == 0 for batch in batches) > 40
    assert all(batch.dtype == np.int64 for batch in batches)


def test_a_rate_of_one_takes_everybody():
    made = plan(30, 64)
    (batch,) = made.batches(30, np.random.default_rng(1))
    assert batch.tolist() == list(range(30))


def test_a_plan_for_another_number_of_records_is_refused():
    with pytest.raises(PrivacyError, match="601 records"):
        next(plan(600).batches(601, np.random.default_rng(1)))


def test_batches_of_equal_streams_are_equal():
    once, again = (
        [b.tolist() for b in plan().batches(600, np.random.default_rng(3))] for _ in range(2)
    )
    assert once == again
