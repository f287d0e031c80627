"""What we do ourselves agrees with SEAL, and a SEAL that has changed is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as sealapi

from privet.privacy.encryption import seal
from privet.privacy.encryption.backend import (
    COMPACT,
    DEFAULT,
    DEGREE,
    MODULUS,
    NOISE_PER_CLIENT,
    PROFILES,
)
from privet.privacy.encryption.residues import add
from privet.privacy.encryption.seal import Scratch

profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def exact_lift(plaintext: int, t: int) -> int:
    return (2 * MODULUS * plaintext + t) // (2 * t)


@profiles
def test_a_lifted_message_is_the_nearest_multiple(profile):
    t = profile.plain_modulus
    edges = [0, 1, 2, t // 2 - 1, t // 2, t - 2, t - 1]
    some = np.random.default_rng(0).integers(0, t, 5000).tolist() + edges
    lifted = seal.lift(np.array(some, dtype=np.uint64), t).tolist()
    assert max(lifted) < MODULUS
    assert lifted == [exact_lift(plaintext, t) for plaintext in some]


def test_seal_lifts_messages_to_the_same_place():
    """What SEAL's own add_plain adds to a ciphertext, up to how it rounds."""
    ring = seal.ring(DEFAULT.plain_modulus)
    evaluator = sealapi.Evaluator(ring.context)
    with ring.session(ring.generate()) as session, seal._Saver() as saved:
        zero = sealapi.Ciphertext()
        session._encryptor.encrypt_zero_symmetric(zero)
        message = sealapi.Plaintext("7FFFFFFFFFFFx^3 + 123456789ABCx^2 + 1")
        sum_ = sealapi.Ciphertext()
        evaluator.add_plain(zero, message, sum_)
        before, after = (_first_polynomial(saved(each)) for each in (zero, sum_))
    added = add(after, (MODULUS - before) % MODULUS, modulus=MODULUS)
    ours = seal.lift(np.array([1, 0, 0x123456789ABC, 0x7FFFFFFFFFFF], dtype=np.uint64), 2**47)
    assert np.abs(added[:4].astype(np.int64) - ours.astype(np.int64)).max() <= 1
    assert not added[4:].any()


def _first_polynomial(saved: bytes) -> np.ndarray:
    """c0 of a full ciphertext: the first half of what lies behind its head."""
    return np.frombuffer(saved[-2 * 8 * DEGREE :], dtype="<u8", count=DEGREE)


@profiles
def test_the_noise_of_a_fresh_ciphertext_keeps_its_bound(profile):
    """c0 of a sum of nothing but noise, seen through a plaintext modulus that shows it."""
    ring = seal.ring(profile.plain_modulus)
    secret = ring.generate()
    with ring.session(secret) as session:
        key = seal._secret_key(ring.context, secret)
        decryptor = sealapi.Decryptor(ring.context, key)
        budgets = []
        for _ in range(20):
            c0, seed = session.encrypt(np.full(DEGREE, profile.plain_modulus - 1, dtype=np.uint64))
            session._sum.write(session._form.blob(c0.tobytes(), seed))
            budgets.append(decryptor.invariant_noise_budget(session._load(session._sum)))
    # A budget of b bits: noise times t, over q, is below 2^-(b+1).
    noise = MODULUS / profile.plain_modulus / 2 ** (min(budgets) + 1)
    assert noise <= 2 * NOISE_PER_CLIENT  # the budget is rounded down to whole bits


def test_seeds_of_parent_and_child_process_differ(forked):
    ring = seal.ring(DEFAULT.plain_modulus)
    secret = ring.generate()

    def seed() -> str:
        with ring.session(secret) as session:
            return session.encrypt(np.zeros(DEGREE, dtype=np.uint64))[1].hex()

    seeds = [seed(), forked(seed, seconds=20), forked(seed, seconds=20), seed()]
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(
    "break_",
    [
        lambda patch: patch.setattr(seal, "lift", lambda plaintext, t: plaintext << np.uint64(12)),
        lambda patch: patch.setattr(seal, "_C0_BYTES", 8 * DEGREE - 8),
        lambda patch: patch.setattr(seal, "SEED_BYTES", 56),
        lambda patch: patch.setattr(seal, "_ZSTD", 1),
        lambda patch: patch.delattr(seal.sealapi, "Encryptor"),
    ],
    ids=["other scaling", "other length", "other seed", "other compression", "no Encryptor"],
)
def test_a_library_of_another_form_is_noticed(monkeypatch, break_):
    break_(monkeypatch)
    seal.ring.cache_clear()
    try:
        with pytest.raises(seal.SealChanged, match=r"tenseal\.sealapi: "):
            seal.ring(COMPACT.plain_modulus)
    finally:
        seal.ring.cache_clear()


def test_a_modulus_beyond_what_seal_allows_is_noticed():
    with pytest.raises(seal.SealChanged, match="refused at 128 bits"):
        seal.ring(2**60)


def test_a_session_leaves_no_file_open():
    ring = seal.ring(DEFAULT.plain_modulus)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ring.session(ring.generate()) as session:
        session.encrypt(np.zeros(DEGREE, dtype=np.uint64))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_system_without_memfd_uses_a_private_file_that_goes_away(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with Scratch() as file:
        assert Path(file.path).stat().st_mode & 0o077 == 0
        file.write(b"ab", b"cd", offset=2)
        assert file.read() == b"\0\0abcd"
        ring = seal.Ring(DEFAULT.plain_modulus)
        seal.prove(ring)
    assert not Path(file.path).exists()
