"""The sum comes out, whoever drops out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.privacy.encryption.masks import MaskError, MaskRound, TooFewSilos, correction


@pytest.mark.parametrize("colluding", [0, 1])
@pytest.mark.parametrize("silos", range(2, 7))
def test_every_set_of_dropouts_up_to_the_threshold_and_one_over(build, silos, colluding):
    if silos < colluding + 2:
        pytest.skip("two silos cannot hide from each other")
    group = build(silos, colluding=colluding)
    names, threshold = list(group.identities), group.plan.threshold
    for left in range(threshold, silos + 1):
        for survivors in itertools.combinations(names, left):
            assert np.array_equal(group.unmasked(survivors), group.expected(survivors))
    for survivors in itertools.combinations(names, threshold - 1):
        for name in survivors:
            one = group.again()[name]
            before = one._phase
            with pytest.raises(TooFewSilos, match=f"fewer than the threshold of {threshold}"):
                one.consent(survivors)
            assert one._phase is before


def test_some_survivors_may_fail_to_consent_or_to_reveal(build):
    group = build(6)
    survivors = list(group.identities)[:5]
    rounds = group.again()
    consents = [rounds[name].consent(survivors) for name in survivors]
    for answering in itertools.combinations(survivors, group.plan.threshold):
        chosen = [consents[survivors.index(name)] for name in answering]
        reveals = [rounds[name].reveal(chosen) for name in answering]
        _, vector = correction(plan=group.plan, adverts=group.adverts, reveals=reveals)
        total = group.without(vector, group.added(group.masked, survivors))
        assert np.array_equal(total, group.expected(survivors))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_sums_of_any_numbers_of_any_width(build, data):
    silos = data.draw(st.integers(3, 6))
    bits = data.draw(st.integers(1, 64))
    count = data.draw(st.integers(1, 20))
    numbers = st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count)
    values = {
        f"silo-{chr(97 + i)}": np.array(data.draw(numbers), dtype=np.uint64) for i in range(silos)
    }
    group = build(silos, count=count, bits=bits, values=values)
    order = data.draw(st.permutations(list(values)))
    survivors = sorted(order[: data.draw(st.integers(group.plan.threshold, silos))])
    assert np.array_equal(group.unmasked(survivors), group.expected(survivors))


def test_the_shape_is_kept_and_the_input_too(build):
    values = {name: np.arange(6, dtype=np.uint64).reshape(2, 3) for name in ("silo-a", "silo-b")}
    group = build(2, colluding=0, count=6, values=values)
    assert group.masked["silo-a"].shape == (2, 3)
    assert np.array_equal(values["silo-a"], np.arange(6).reshape(2, 3))
    _, vector = correction(plan=group.plan, adverts=group.adverts, reveals=group.reveals(values))
    total = group.masked["silo-a"] + group.masked["silo-b"]
    assert np.array_equal(group.without(vector, total), 2 * values["silo-a"])


def test_a_masked_update_says_nothing_by_itself(build):
    # The extremes of what an update can be give masked numbers that look alike: chi-square over 16
    # classes with 15 degrees of freedom, beyond 50 once in 80 000 times.
    for value in (0, 2**47 - 1):
        values = {f"silo-{letter}": np.full(32_000, value, dtype=np.uint64) for letter in "abc"}
        group = build(3, count=32_000, values=values)
        for masked in group.masked.values():
            counts = np.bincount((masked >> np.uint64(43)).astype(int), minlength=16)
            assert ((counts - 2000) ** 2 / 2000).sum() < 50
            assert int(masked.max()) < 2**47


def test_pairwise_masks_alone_cancel_and_differ_between_rounds(build):
    values = {f"silo-{letter}": np.zeros(50, dtype=np.uint64) for letter in "abc"}
    group = build(3, count=50, values=values)
    other = build(3, count=50, values=values, identities=group.identities)
    for name in values:
        assert len(set(group.masked[name].tolist()) & set(other.masked[name].tolist())) == 0


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros(4, dtype=np.uint64), "5 numbers of type uint64, not for 4"),
        (np.zeros(5, dtype=np.int64), "not for 5 of type int64"),
        (np.zeros(5, dtype=np.float64), "not for 5 of type float64"),
        (np.full(5, 2**47, dtype=np.uint64), r"not below 2\^47"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_spent(group, values, problem):
    rounds = {
        name: MaskRound.begin(plan=group.plan, name=name, identity=key)
        for name, key in group.identities.items()
    }
    adverts = [each.advert() for each in rounds.values()]
    encrypted_shares = {name: each.share(adverts) for name, each in rounds.items()}
    to_a = {name: each["silo-a"] for name, each in encrypted_shares.items() if name != "silo-a"}
    with pytest.raises(MaskError, match=problem):
        rounds["silo-a"].mask(values, encrypted_shares=to_a)
    rounds["silo-a"].mask(np.zeros(5, dtype=np.uint64), encrypted_shares=to_a)
