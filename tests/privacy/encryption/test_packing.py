"""Residues in 7.5 bytes, digits in coefficients, sums modulo q."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption.backend import MODULUS
from privet.privacy.encryption.residues import (
    add,
    coefficients_to_digits,
    digits_to_coefficients,
    pack,
    unpack,
)

residues = st.lists(st.integers(0, 2**60 - 1), min_size=16, max_size=64).map(
    lambda found: np.array(found[: len(found) // 16 * 16], dtype=np.uint64)
)


@given(residues)
def test_packing_loses_nothing_and_takes_seven_and_a_half_bytes(found):
    packed = pack(found)
    assert len(packed) == 7.5 * len(found)
    np.testing.assert_array_equal(unpack(np.frombuffer(packed, dtype=np.uint8)), found)


@given(st.binary(min_size=120, max_size=120))
def test_every_byte_string_is_the_packing_of_one_vector(packed):
    found = unpack(np.frombuffer(packed, dtype=np.uint8))
    assert found.max() < 2**60
    assert pack(found) == packed


@given(st.lists(st.tuples(*2 * [st.integers(0, MODULUS - 1)]), min_size=1))
def test_addition_is_modular(pairs):
    a, b = (np.array(column, dtype=np.uint64) for column in zip(*pairs, strict=True))
    assert add(a, b, modulus=MODULUS).tolist() == [(x + y) % MODULUS for x, y in pairs]
    add(a, b, modulus=MODULUS, out=a)
    assert a.tolist() == [(x + y) % MODULUS for x, y in pairs]


@given(st.sampled_from([(2, 23), (3, 16), (2, 25)]), st.data())
def test_digits_and_coefficients(shape, data):
    per_coefficient, bits = shape
    numbers = st.lists(st.integers(0, 2**bits - 1), min_size=6, max_size=6)
    digits = np.array(data.draw(numbers), dtype=np.uint64)
    made = digits_to_coefficients(digits, per_coefficient=per_coefficient, bits=bits)
    count = 6 // per_coefficient
    expected = [
        sum(int(digits[place * count + i]) << bits * place for place in range(per_coefficient))
        for i in range(count)
    ]
    assert made.tolist() == expected
    found = coefficients_to_digits(made, per_coefficient=per_coefficient, bits=bits)
    np.testing.assert_array_equal(found, digits)


def test_what_lies_above_the_digits_stays_visible():
    found = coefficients_to_digits(np.array([2**46], dtype=np.uint64), per_coefficient=2, bits=23)
    assert found.tolist() == [0, 2**23]
