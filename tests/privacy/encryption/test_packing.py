"""Residues in 7 bytes, secrets in 11 bits, digits in coefficients, sums modulo q."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption.backend import CUT_ERROR, DEGREE, MODULUS
from privet.privacy.encryption.residues import (
    add,
    coefficients_to_digits,
    digits_to_coefficients,
    narrow,
    pack,
    pack_secret,
    unpack,
    unpack_secret,
    widen,
)

sent = st.lists(st.integers(0, 2**56 - 1), min_size=1, max_size=64).map(
    lambda found: np.array(found, dtype=np.uint64)
)
edges = [0, 1, 7, 8, 9, 2**14 - 1, 2**14, MODULUS // 2, MODULUS - 2**14, MODULUS - 8, MODULUS - 1]
residues = st.one_of(st.sampled_from(edges), st.integers(0, MODULUS - 1))


@given(sent)
def test_packing_loses_nothing_and_takes_seven_bytes(found):
    packed = pack(found)
    assert len(packed) == 7 * len(found)
    np.testing.assert_array_equal(unpack(np.frombuffer(packed, dtype=np.uint8)), found)
    # What a sum has above 56 bits is not sent.
    assert pack(found + np.uint64(5 << 56)) == packed


@given(st.binary(min_size=7, max_size=140))
def test_every_byte_string_is_the_packing_of_one_vector(packed):
    packed = packed[: len(packed) // 7 * 7]
    found = unpack(np.frombuffer(packed, dtype=np.uint8))
    assert found.max() < 2**56
    assert pack(found) == packed


@given(st.integers(0, 2**32))
def test_secrets_take_eleven_bits(seed):
    numbers = np.random.default_rng(seed).integers(0, 2**16, DEGREE, dtype=np.uint16)
    packed = pack_secret(numbers)
    assert len(packed) == 5632
    found = unpack_secret(np.frombuffer(packed, dtype=np.uint8))
    np.testing.assert_array_equal(found, numbers % 2**11)


@given(st.lists(residues, min_size=1, max_size=128))
def test_what_is_sent_of_residues_adds_up_to_their_sum(found):
    """Modulo 2^56, and but for an error that the bound on noise has room for."""
    total = sum(narrow(np.array([each], dtype=np.uint64)) for each in found)
    (back,) = widen(total & np.uint64(2**56 - 1)).tolist()
    assert 0 <= back < MODULUS
    off = (back - sum(found)) % MODULUS
    assert min(off, MODULUS - off) <= CUT_ERROR * len(found) + 2


@given(sent)
def test_what_stands_for_a_number_is_sent_as_that_number(found):
    np.testing.assert_array_equal(narrow(widen(found)), found)


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
