"""Real numbers to digits and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption import EncryptionError
from privet.privacy.encryption.residues import (
    count_clipped,
    from_digits,
    integer_to_weight,
    join,
    split,
    to_digits,
    weight_to_integer,
)

LEVELS = 32767
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def digits(x, *, weight=1.0, clamp=0.5, seed=0):
    x = np.asarray(x, dtype=np.float32)
    rng = np.random.default_rng(seed)
    return to_digits(x, weight=weight, clamp=clamp, levels=LEVELS, rng=rng)


@given(
    st.lists(finite, min_size=1, max_size=20),
    st.floats(2**-40, 1),
    st.floats(1e-30, 1e30),
    st.integers(0, 9),
)
def test_no_value_leaves_the_range_of_a_digit(x, weight, clamp, seed):
    found = digits(x, weight=weight, clamp=clamp, seed=seed)
    assert found.dtype == np.uint64
    assert found.max() <= 2 * LEVELS


class Extreme(np.random.Generator):
    """Draws the largest number below one, or zero, for ever."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._value = value

    def random(self, size=None, dtype=np.float64, out=None):
        return np.full(size, self._value, dtype=dtype)


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("clamp", [0.5, 0.1, 1 / 3, 1e-30, 1e30])
def test_the_ends_are_exact_whatever_is_drawn(draw, clamp):
    x = np.array([clamp, -clamp, 2 * clamp, -2 * clamp])
    found = to_digits(x, weight=1.0, clamp=clamp, levels=LEVELS, rng=Extreme(draw))
    assert found[[0, 2]].tolist() == [2 * LEVELS] * 2
    assert found[[1, 3]].tolist() == [0] * 2


def test_not_even_a_generator_that_draws_one_overflows_a_digit():
    x = np.array([0.5, -0.5])
    found = to_digits(x, weight=1.0, clamp=0.5, levels=LEVELS, rng=Extreme(1.0))
    assert found.tolist() == [2 * LEVELS, 1]


@given(st.lists(st.floats(-0.5, 0.5, width=32), min_size=1), st.floats(0.01, 1), st.integers(0, 9))
def test_rounding_is_off_by_less_than_a_level(x, weight, seed):
    opened = from_digits(digits(x, weight=weight, seed=seed), clients=1, clamp=0.5, levels=LEVELS)
    np.testing.assert_array_less(np.abs(opened - weight * np.float32(x)), 0.5 / LEVELS * (1 + 1e-9))


def test_rounding_is_right_on_average():
    """Level 1e-6: a mean of 10^6 draws of variance at most 1/4, 4.9 standard deviations."""
    x = np.full(1_000_000, 0.3 * 0.5 / LEVELS, dtype=np.float64)
    found = to_digits(x, weight=1.0, clamp=0.5, levels=LEVELS, rng=np.random.default_rng(1))
    assert set(found.tolist()) == {LEVELS, LEVELS + 1}
    assert abs(found.mean() - LEVELS - 0.3) < 4.9 * np.sqrt(0.3 * 0.7 / 1e6)


def test_values_are_cut_off_before_they_are_weighed():
    opened = from_digits(digits([3.0], weight=0.5), clients=1, clamp=0.5, levels=LEVELS)
    assert opened[0] == pytest.approx(0.25, abs=0.5 / LEVELS)


def test_clipped_values_are_counted_across_blocks():
    x = np.zeros(100_000, dtype=np.float32)
    x[[0, 40_000, 99_999]] = [0.6, -0.6, 0.5]
    assert count_clipped(x, clamp=0.5) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 70_000])
def test_what_is_not_finite_is_refused(bad, place):
    x = np.zeros(70_001, dtype=np.float32)
    x[place] = bad
    with pytest.raises(EncryptionError, match="NaN or infinity"):
        count_clipped(x, clamp=0.5)


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.0000001, 2**-49, float("nan"), float("inf")])
def test_a_weight_outside_its_range_is_refused(weight):
    with pytest.raises(EncryptionError, match="weight = "):
        weight_to_integer(weight)


@given(st.lists(st.floats(2**-20, 1), min_size=1, max_size=128))
def test_weights_add_up_to_within_half_a_unit_each(weights):
    total = integer_to_weight(sum(map(weight_to_integer, weights)))
    assert total == pytest.approx(sum(weights), abs=len(weights) * 2**-47)


@given(st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=128), st.sampled_from([12, 16, 21]))
def test_sums_of_split_numbers_join_to_the_sum(numbers, bits):
    sums = np.zeros(4, dtype=np.uint64)
    for number in numbers:
        sums += np.array(split(number, bits=bits, count=4), dtype=np.uint64)
    assert join(sums, bits=bits) == sum(numbers)
