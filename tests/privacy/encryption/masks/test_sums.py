"""The sum comes out, whoever drops out."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.privacy.encryption.backend import DEGREE
from privet.privacy.encryption.errors import Tampered
from privet.privacy.encryption.masks import MaskError, TooFewSilos, correction


@pytest.mark.parametrize("colluding", [0, 1])
@pytest.mark.parametrize("silos", range(2, 7))
def test_every_set_of_dropouts_up_to_the_threshold_and_one_over(build, silos, colluding):
    if silos < colluding + 2:
        pytest.skip("two silos cannot hide from each other")
    group = build(silos, colluding=colluding)
    names, threshold = list(group.identities), group.threshold
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
    for answering in itertools.combinations(survivors, group.threshold):
        chosen = [consents[survivors.index(name)] for name in answering]
        reveals = [rounds[name].reveal(chosen) for name in answering]
        _, vector = correction(plan=group.plan, adverts=group.adverts, reveals=reveals)
        total = group.without(vector, group.added(group.masked, survivors))
        assert np.array_equal(total, group.expected(survivors))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_sums_of_any_numbers(build, data):
    silos = data.draw(st.integers(3, 6))
    edges = st.sampled_from([0, 1, 2**15 - 1, 2**15, 2**16 - 1])
    values = {
        f"silo-{chr(97 + place)}": np.resize(
            np.array(data.draw(st.lists(edges, min_size=1, max_size=9)), dtype=np.uint16), DEGREE
        )
        for place in range(silos)
    }
    group = build(silos, values=values)
    order = data.draw(st.permutations(list(values)))
    survivors = sorted(order[: data.draw(st.integers(group.threshold, silos))])
    assert np.array_equal(group.unmasked(survivors), group.expected(survivors))


def test_a_masked_update_says_nothing_by_itself(build):
    # The extremes of what an update can be give masked numbers that look alike: chi-square over 16
    # classes with 15 degrees of freedom, beyond 50 once in 80 000 times.
    for value in (0, 2**16 - 1):
        values = {f"silo-{letter}": np.full(DEGREE, value, dtype=np.uint16) for letter in "abc"}
        group = build(3, values=values)
        for masked in group.masked.values():
            counts = np.bincount(masked >> 12, minlength=16)
            assert ((counts - 256) ** 2 / 256).sum() < 50


def test_masks_differ_between_attempts_of_the_same_round(build):
    values = {f"silo-{letter}": np.zeros(DEGREE, dtype=np.uint16) for letter in "abc"}
    group = build(3, values=values)
    other = build(3, values=values, identities=group.identities)
    for name in values:
        # Equal by chance in one of 65,536 places; ten or more of 4096 once in 10^18 times.
        assert (group.masked[name] == other.masked[name]).sum() < 10


def test_a_round_without_masks_is_agreed_on_and_over_once_it_is_joined(build):
    group = build(3, masked=False, colluding=0)
    assert group.masked == {}
    assert all(not shares for shares in group.encrypted_shares.values())
    for each in group.rounds.values():
        assert each.adverts.threshold == 2
        with pytest.raises(MaskError, match="is closed; this step is for one that is shared"):
            each.mask({})


@pytest.mark.parametrize("masked", [True, False])
def test_a_silo_opens_one_sum_of_a_round(build, masked):
    group = build(3, masked=masked, colluding=0)
    rounds = group.again() if masked else group.rounds
    if masked:
        with pytest.raises(MaskError, match="is masked; this step is for one that is closed"):
            rounds["silo-a"].open(bytes(32), rounds)
        consents = [each.consent(rounds) for each in rounds.values()]
        for each in rounds.values():
            each.reveal(consents)
            each.close()
    for name, each in rounds.items():
        bound = each.open(bytes(32), rounds)
        assert (set(bound.survivors), bound.total) == (set(rounds), bytes(32))
        assert each.open(bytes(32), rounds) == bound
        others = [other for other in rounds if other != name]
        for total, names in ((b"x" * 32, rounds), (bytes(32), others), (bytes(32), ["d"])):
            with pytest.raises(Tampered):
                each.open(total, names)


def test_silos_count_by_what_they_adverted(build):
    names = {}
    for records in (0, 3):
        group = build(3, records=records)
        names = group.rounds["silo-a"].adverts
        assert [names.weight(name) for name in names.members] == [1.0, 1.0, 1.0]
    # Who does not say counts as the largest; nobody counts more than all others together.
    told = {
        (4, 3, 1): [1.0, 0.75, 0.25],
        (4, 0, 4): [1.0, 1.0, 1.0],
        (2**53, 3, 1): [1, 0.75, 0.25],
    }
    for counts, weights in told.items():
        adverts = [
            replace(advert, records=records)
            for advert, records in zip(names.adverts, counts, strict=True)
        ]
        mixed = replace(names, adverts=tuple(adverts))
        assert [mixed.weight(name) for name in mixed.members] == weights
