"""K_max real ciphertexts of the largest, the smallest, of random plaintexts: always exact."""

from __future__ import annotations

from collections.abc import Iterable
from unittest.mock import patch

import numpy as np
import pytest

from privet.privacy.encryption import lattice
from privet.privacy.encryption.backend import (
    COINS,
    DEGREE,
    PROFILES,
    TAG_MODULUS,
    TAGS,
    coins_bound,
)
from privet.privacy.encryption.header import Header, Terms
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.lattice import LatticeBackend
from privet.privacy.encryption.residues import coefficients_to_digits, digits_to_coefficients

RNG = np.random.default_rng(0)


KEY = SecretKey.fresh(digest=bytes(16), lattice=b"")
TERMS = Terms(run="run", round=3, size=1, clamp=0.5)


def opened_sum(plain_modulus: int, plaintexts: Iterable[np.ndarray]) -> np.ndarray:
    """Each plaintext by a client of its own, encrypted, added and opened."""
    backend, clients = LatticeBackend(plain_modulus), []
    accumulator = backend.accumulator(DEGREE)
    for number, plaintext in enumerate(plaintexts):
        clients.append(f"{number:03}")
        body = b"".join(backend.encrypt([plaintext], key=KEY, terms=TERMS))
        accumulator.add(memoryview(body))
    header = Header(kind="sum", digest=bytes(16), terms=TERMS, clients=tuple(clients))
    body = memoryview(b"".join(accumulator.body()))
    (opened,) = backend.decrypt(body, key=KEY, header=header, length=DEGREE)
    return opened


def largest(high: int, count: int) -> np.ndarray:
    return np.full(count, high, dtype=np.uint64)


def smallest(high: int, count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.uint64)


def mixed(high: int, count: int) -> np.ndarray:
    """Largest and smallest in turn, so that a carry would meet an empty digit."""
    return np.arange(count, dtype=np.uint64) % 2 * np.uint64(high)


def random(high: int, count: int) -> np.ndarray:
    return RNG.integers(0, high + 1, count, dtype=np.uint64)


@pytest.mark.parametrize("draw", [largest, smallest, mixed, random])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_as_many_clients_as_allowed_add_up_exactly(profile, draw):
    digits = np.zeros(profile.digits * (DEGREE - TAGS), dtype=np.uint64)
    tags = np.zeros(TAGS, dtype=np.uint64)
    plaintexts = []
    for _ in range(profile.max_clients):
        own = draw(2**profile.value_bits - 1, len(digits))
        tag = draw(TAG_MODULUS - 1, TAGS)
        digits, tags = digits + own, tags + tag
        values = digits_to_coefficients(
            own, per_coefficient=profile.digits, bits=profile.digit_bits
        )
        plaintexts.append(np.concatenate([values, tag]))
    opened = opened_sum(profile.plain_modulus, plaintexts)
    found = coefficients_to_digits(
        opened[:-TAGS], per_coefficient=profile.digits, bits=profile.digit_bits
    )
    np.testing.assert_array_equal(found, digits)
    np.testing.assert_array_equal(opened[-TAGS:], tags)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_secrets_of_all_clients_add_up(name, sign):
    """No sum wraps in 11 bits and every product is exact, at what all coins never add up to."""
    profile = PROFILES[name]
    t, clients = profile.plain_modulus, profile.max_clients
    value = min(COINS // 2, coins_bound(clients) // clients)
    assert (value + 1) * clients > coins_bound(clients)
    secret = np.full(DEGREE, sign * value, dtype=np.int64)
    plaintexts = RNG.integers(0, t, (clients, DEGREE), dtype=np.uint64)
    errors = [lattice.draw_short(bytes(32), place) for place in range(clients)]
    drawn = [each for error in errors for each in (secret, error)]
    with patch.object(lattice, "draw_short", side_effect=drawn):
        opened = opened_sum(t, plaintexts)
    np.testing.assert_array_equal(opened, plaintexts.sum(axis=0) % np.uint64(t))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_plaintexts_of_any_size_add_up_modulo_t(profile):
    """Whatever carries out of the highest digit: coefficients anywhere below t, K_max clients."""
    t = profile.plain_modulus
    plaintexts = [
        *(RNG.integers(0, t, DEGREE, dtype=np.uint64) for _ in range(profile.max_clients - 1)),
        np.full(DEGREE, t - 1, dtype=np.uint64),
    ]
    np.testing.assert_array_equal(opened_sum(t, plaintexts), sum(plaintexts) % t)


def test_more_clients_than_allowed_would_not_add_up():
    """The bound is needed: 150 largest digits of the default profile do overflow."""
    profile = PROFILES["default"]
    largest_digit = np.full(DEGREE, 2**profile.value_bits - 1, dtype=np.uint64)
    opened = opened_sum(profile.plain_modulus, [largest_digit] * 150)
    assert (opened >= 2**profile.digit_bits).all()
