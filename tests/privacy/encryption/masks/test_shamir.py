"""Secret sharing."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption.keys import MessageError, Secret
from privet.privacy.encryption.masks import MaskError, TooFewSilos
from privet.privacy.encryption.masks import shares as shamir
from privet.privacy.encryption.masks.shares import PRIME, SHARE, join, split


@st.composite
def sharings(draw):
    """A secret, a threshold, places, and which of them come back."""
    secret = Secret(draw(st.binary(min_size=32, max_size=32)))
    places = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=9, unique=True))
    threshold = draw(st.integers(1, len(places)))
    return secret, threshold, places, draw(st.permutations(places))


@given(sharings(), st.data())
def test_any_threshold_of_shares_gives_the_secret_and_fewer_are_refused(sharing, data):
    secret, threshold, places, order = sharing
    shares = split(secret, threshold=threshold, places=places)
    assert {len(share) for share in shares.values()} == {SHARE}
    several = data.draw(st.integers(threshold, len(places)))
    assert join({place: shares[place] for place in order[:several]}, threshold=threshold) == secret
    with pytest.raises(TooFewSilos, match=f"fewer than the threshold of {threshold}"):
        join({place: shares[place] for place in order[: threshold - 1]}, threshold=threshold)


@given(sharings())
def test_shares_below_the_threshold_fit_every_secret(sharing):
    # For a made-up secret there is a polynomial through it and all but one of the shares, and it
    # gives a valid share at the place of the last one: the shares that are known decide nothing.
    secret, threshold, places, order = sharing
    known = split(secret, threshold=threshold, places=places)
    known = {place: known[place] for place in order[: threshold - 1]}
    for made_up in (0, 1, 2**256 - 1):
        missing = next(place for place in range(1, 1002) if place not in known)
        points = {0: made_up} | {
            place: int.from_bytes(share.reveal(), "big") for place, share in known.items()
        }
        share = _through(points, missing)
        whole = known | {missing: Secret(share.to_bytes(SHARE, "big"))}
        assert join(whole, threshold=threshold).reveal() == made_up.to_bytes(32, "big")


def _through(points: dict[int, int], at: int) -> int:
    total = 0
    for x, y in points.items():
        term = y
        for other in points:
            if other != x:
                term = term * (at - other) * pow(x - other, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def test_the_distribution_of_too_few_shares_does_not_depend_on_the_secret(monkeypatch):
    # Every possible sharing in a field of seven elements: any two of three places see every pair of
    # values equally often, whatever the secret is.
    monkeypatch.setattr(shamir, "PRIME", 7)
    seen = {}
    for value in range(7):
        seen[value] = Counter()
        for coefficients in itertools.product(range(7), repeat=2):
            draws = iter(coefficients)
            monkeypatch.setattr(shamir.secrets, "randbelow", lambda _, draws=draws: next(draws))
            secret = Secret(value.to_bytes(32, "big"))
            shares = shamir.split(secret, threshold=3, places=[1, 2, 3])
            assert shamir.join(shares, threshold=3) == secret
            for pair in itertools.combinations((1, 2, 3), 2):
                seen[value][pair, *(shares[place].reveal()[-1] for place in pair)] += 1
    assert all(counts == seen[0] for counts in seen.values())
    assert set(seen[0].values()) == {1}


def test_the_modulus_is_the_first_prime_above_every_secret():
    def is_prime(n):
        if any(n % small == 0 for small in (2, 3, 5, 7, 11, 13)):
            return False
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in range(2, 50):
            value = pow(base, odd, n)
            if value not in (1, n - 1) and all(
                pow(value, 2**k, n) != n - 1 for k in range(1, twos)
            ):
                return False
        return True

    assert [n for n in range(2**256, PRIME + 1) if is_prime(n)] == [PRIME]


def test_coefficients_come_from_the_operating_system_and_are_new_each_time():
    secret = Secret(bytes(32))
    one, two = (split(secret, threshold=2, places=[1, 2]) for _ in range(2))
    assert one[1] != two[1]
    assert join({1: one[1], 2: two[2]}, threshold=2) != secret


@pytest.mark.parametrize(
    ("size", "threshold", "places"),
    [(31, 1, [1]), (33, 1, [1]), (32, 0, [1]), (32, 2, [1]), (32, 1, [0]), (32, 1, [1, 1])],
)
def test_what_cannot_be_shared_is_refused(size, threshold, places):
    with pytest.raises(MaskError):
        split(Secret(bytes(size)), threshold=threshold, places=places)


def test_wrong_shares_give_another_secret_or_none():
    secret = Secret.random()
    shares = split(secret, threshold=2, places=[1, 2])
    assert join({1: shares[1], 3: shares[2]}, threshold=2) != secret
    largest = Secret((PRIME - 1).to_bytes(SHARE, "big"))
    with pytest.raises(MessageError, match="no secret"):
        join({1: largest}, threshold=1)
