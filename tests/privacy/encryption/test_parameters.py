"""Overflow is excluded when a cipher is made, not hoped against when it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privet.privacy.encryption import EncryptionError, make_cipher
from privet.privacy.encryption.backend import (
    COINS,
    COMPACT,
    DEFAULT,
    DEGREE,
    MAX_MODULUS_BITS,
    MODULUS,
    PRECISE,
    PROFILES,
    SECRET_BITS,
    coins_bound,
    noise_bound,
    security_bits,
)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_worst_case_of_every_profile_fits(profile):
    assert profile.max_clients * 2 * profile.levels < 2**profile.digit_bits
    assert MODULUS // (2 * profile.plain_modulus) > noise_bound(profile.max_clients) + 2
    assert coins_bound(profile.max_clients) <= 2 ** (SECRET_BITS - 1)
    # While they are masked they are numbers of 16 bits, whatever the coins.
    assert COINS // 2 * profile.max_clients < 2**15


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_one_client_more_overflows_a_digit(profile):
    more = profile.max_clients + 1
    with pytest.raises(EncryptionError, match=f"max_clients = {more}, .*overflow a digit"):
        replace(profile, max_clients=more)


@pytest.mark.parametrize(
    ("profile", "changes", "complaint"),
    [
        (
            COMPACT,
            {"value_bits": 10, "max_clients": 64},
            "max_clients = 64, allowed is fewer: the noise has room for 508",
        ),
        (DEFAULT, {"plain_modulus": 2**47 + 1}, "allowed is a power of two"),
        # Lifting a coefficient takes 14 bits more than it has, in 64.
        (COMPACT, {"plain_modulus": 2**51, "max_clients": 9}, f"2814.* to {2**50}"),
        (DEFAULT, {"digit_bits": 26}, "digit_bits = 26, allowed is 1 to 25"),
        (DEFAULT, {"digits": 3}, "plain_modulus = 140737488355328, allowed is room"),
        (DEFAULT, {"plain_modulus": 2**49}, "allowed is room for the digits"),
        (DEFAULT, {"max_clients": 0}, "max_clients = 0, allowed is at least 1"),
        (COMPACT, {"digits": 2, "plain_modulus": 2**34}, "at most 8: more overflow a tag"),
        (PRECISE, {"value_bits": 25}, "value_bits = 25, allowed is 2 to 24"),
    ],
)
def test_what_could_overflow_is_an_error(profile, changes, complaint):
    with pytest.raises(EncryptionError, match=complaint):
        replace(profile, **changes)


def test_security_is_that_of_the_standard_and_of_seal():
    import tenseal.sealapi as seal

    levels = {128: "TC128", 192: "TC192", 256: "TC256"}
    for bits, limit in MAX_MODULUS_BITS.items():
        level = getattr(seal.SEC_LEVEL_TYPE, levels[bits])
        assert seal.CoeffModulus.MaxBitCount(DEGREE, level) == limit
    assert [security_bits(bits) for bits in (58, 59, 75, 76, 109)] == [256, 192, 192, 128, 128]
    with pytest.raises(EncryptionError, match="log2 q = 110 is below 128 bits"):
        security_bits(110)


def test_the_modulus_is_the_one_that_seal_would_choose():
    import tenseal.sealapi as seal

    assert [each.value() for each in seal.CoeffModulus.Create(DEGREE, [60])] == [MODULUS]


@pytest.mark.parametrize(
    ("scheme", "profile", "complaint"),
    [
        ("bvf", "default", r"scheme = 'bvf': allowed are bfv, ckks. Did you mean 'bfv'\?"),
        ("bfv", "compct", "allowed are default, compact, precise. Did you mean 'compact'"),
        ("ckks", "compact", "profile = 'compact': allowed are default"),
    ],
)
def test_an_unknown_choice_is_named(scheme, profile, complaint):
    with pytest.raises(EncryptionError, match=complaint):
        make_cipher(scheme, profile=profile)
