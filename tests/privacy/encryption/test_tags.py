"""Tags add up, and cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption.backend import TAG_MODULUS
from privet.privacy.encryption.codec import Tagger, Words

KEY = bytes(range(32))
TAGGER = Tagger(KEY, context=b"context")
digits = st.lists(st.integers(0, 2**25 - 1), min_size=1, max_size=400)


def as_array(numbers):
    return np.array(numbers, dtype=np.uint64)


@given(digits, st.integers(0, 2**40))
def test_tags_are_the_sums_that_they_are_said_to_be(numbers, chunk):
    words = Words(KEY, purpose=b"tags", context=b"context").of(chunk, len(numbers) + 1).tolist()
    expected = [
        sum(word * digit for word, digit in zip(words[k:], numbers, strict=False)) % TAG_MODULUS
        for k in (0, 1)
    ]
    assert TAGGER.tags(chunk, as_array(numbers)).tolist() == expected


def test_the_largest_digits_do_not_overflow():
    numbers = [2**25 - 1] * 12_288
    words = Words(KEY, purpose=b"tags", context=b"context").of(0, 12_289).tolist()
    expected = [sum(words[k : k + 12_288]) * (2**25 - 1) % TAG_MODULUS for k in (0, 1)]
    assert TAGGER.tags(0, as_array(numbers)).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 2**16), min_size=9, max_size=9), min_size=1, max_size=9))
def test_tags_of_a_sum_are_the_sum_of_the_tags(vectors):
    total = sum(TAGGER.tags(5, as_array(vector)) for vector in vectors) % TAG_MODULUS
    whole = as_array(vectors).sum(axis=0)
    np.testing.assert_array_equal(total, TAGGER.tags(5, whole))


@pytest.mark.parametrize(
    "other",
    [
        Words(bytes(32), purpose=b"tags", context=b"context"),
        Words(KEY, purpose=b"tag", context=b"scontext"),
        Words(KEY, purpose=b"tags", context=b"context2"),
    ],
    ids=["key", "purpose", "context"],
)
def test_words_belong_to_key_purpose_and_context(other):
    own = Words(KEY, purpose=b"tags", context=b"context")
    assert (own.of(0, 99) != other.of(0, 99)).any()


def test_words_of_two_chunks_do_not_overlap():
    words = Words(KEY, purpose=b"tags", context=b"context")
    seen = np.concatenate([words.of(chunk, 8192) for chunk in range(20)])
    pairs = seen[:-1].astype(np.uint64) << np.uint64(32) | seen[1:]
    assert len(np.unique(pairs)) == len(pairs)


def test_a_change_of_any_digit_changes_both_tags():
    before = as_array(np.arange(50))
    for place in range(50):
        after = before.copy()
        after[place] += np.uint64(1)
        assert (TAGGER.tags(0, after) != TAGGER.tags(0, before)).all()
