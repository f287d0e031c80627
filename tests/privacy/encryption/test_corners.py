"""K_max real ciphertexts of the largest, the smallest, of random plaintexts: always exact."""

from __future__ import annotations

import numpy as np
import pytest

from privet.privacy.encryption.backend import DEGREE, PROFILES, TAG_MODULUS, TAGS
from privet.privacy.encryption.cipher import documented_bfv
from privet.privacy.encryption.residues import coefficients_to_digits, digits_to_coefficients
from privet.privacy.encryption.seal import SeededBackend

RNG = np.random.default_rng(0)


def joined(parts) -> memoryview:
    return memoryview(b"".join(parts))


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
@pytest.mark.parametrize("layout", ["seeded", "documented"])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_as_many_clients_as_allowed_add_up_exactly(profile, layout, draw):
    backend = (
        SeededBackend(profile.plain_modulus)
        if layout == "seeded"
        else documented_bfv(profile)._backend
    )
    secret, accumulator = backend.generate(), backend.accumulator(1)
    digits = np.zeros(profile.digits * (DEGREE - TAGS), dtype=np.uint64)
    tags = np.zeros(TAGS, dtype=np.uint64)
    for _ in range(profile.max_clients):
        own = draw(2**profile.value_bits - 1, len(digits))
        tag = draw(TAG_MODULUS - 1, TAGS)
        digits, tags = digits + own, tags + tag
        values = digits_to_coefficients(
            own, per_coefficient=profile.digits, bits=profile.digit_bits
        )
        accumulator.add(joined(backend.encrypt([np.concatenate([values, tag])], secret=secret)))
    body = joined(accumulator.body())
    (opened,) = backend.decrypt(body, secret=secret, chunks=1, clients=profile.max_clients)
    found = coefficients_to_digits(
        opened[:-TAGS], per_coefficient=profile.digits, bits=profile.digit_bits
    )
    np.testing.assert_array_equal(found, digits)
    np.testing.assert_array_equal(opened[-TAGS:], tags)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_plaintexts_of_any_size_add_up_modulo_t(profile):
    """As masked ones do: every coefficient anywhere below t, K_max clients."""
    t = profile.plain_modulus
    backend = SeededBackend(t)
    secret, accumulator = backend.generate(), backend.accumulator(1)
    plaintexts = [
        *(RNG.integers(0, t, DEGREE, dtype=np.uint64) for _ in range(profile.max_clients - 1)),
        np.full(DEGREE, t - 1, dtype=np.uint64),
    ]
    for plaintext in plaintexts:
        accumulator.add(joined(backend.encrypt([plaintext], secret=secret)))
    body = joined(accumulator.body())
    (opened,) = backend.decrypt(body, secret=secret, chunks=1, clients=profile.max_clients)
    np.testing.assert_array_equal(opened, sum(plaintexts) % t)


def test_more_clients_than_allowed_would_not_add_up():
    """The bound is needed: 150 largest digits of the default profile do overflow."""
    profile = PROFILES["default"]
    backend = SeededBackend(profile.plain_modulus)
    secret, accumulator = backend.generate(), backend.accumulator(1)
    digit = 2**profile.value_bits - 1
    for _ in range(150):
        plaintext = np.full(DEGREE, digit, dtype=np.uint64)
        accumulator.add(joined(backend.encrypt([plaintext], secret=secret)))
    body = joined(accumulator.body())
    (opened,) = backend.decrypt(body, secret=secret, chunks=1, clients=150)
    assert (opened >= 2**profile.digit_bits).all()
