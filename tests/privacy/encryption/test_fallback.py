"""When SEAL cannot be spoken to directly, TenSEAL's documented vectors take its place."""

from __future__ import annotations

import numpy as np
import pytest

from privet.privacy.encryption import Terms, UploadRefused, make_cipher, seal


@pytest.fixture
def seeded(ciphers):
    """Made while the library is well."""
    return ciphers("default")


@pytest.fixture
def changed_library(seeded, monkeypatch):
    """A TenSEAL whose ciphertexts add up to something else."""
    seal.ring.cache_clear()
    monkeypatch.setattr(seal, "lift", lambda plaintext, t: plaintext << np.uint64(12))
    yield
    seal.ring.cache_clear()


@pytest.fixture
def fallback(changed_library):
    with pytest.warns(UserWarning, match=r"a known sum is decrypted .*; uploads fall back"):
        return make_cipher("bfv")


def test_the_fallback_says_how_long_its_uploads_are(fallback):
    facts = fallback.facts
    assert (facts.layout, facts.scheme, facts.profile) == ("documented", "bfv", "default")
    assert (facts.security_bits, facts.modulus_bits) == (128, 109)
    assert 8.0 < facts.bytes_per_parameter < 8.1


def test_the_fallback_works(fallback):
    terms = Terms(run="run", round=1, size=20_000, clamp=1.0)
    key, adder = fallback.generate(), fallback.adder(terms)
    vectors = np.random.default_rng(0).uniform(-1, 1, (2, 20_000)).astype(np.float32)
    for client, x in zip("ab", vectors, strict=True):
        upload = fallback.encrypt(
            x, key=key, terms=terms, weight=1.0, client=client, rng=np.random.default_rng(0)
        )
        adder.add(upload.data, client=client)
    opened = fallback.decrypt(adder.to_bytes(), key=key, run="run", round=1, at_least=2)
    np.testing.assert_allclose(opened.mean, vectors.mean(axis=0), atol=1 / 32767)


def test_the_two_layouts_are_never_mixed(fallback, seeded):
    terms = Terms(run="run", round=1, size=5, clamp=1.0)
    upload = fallback.encrypt(
        np.zeros(5),
        key=fallback.generate(),
        terms=terms,
        weight=1.0,
        client="a",
        rng=np.random.default_rng(0),
    )
    with pytest.raises(UploadRefused, match="another cipher or other parameters"):
        seeded.adder(terms).add(upload.data, client="a")


@pytest.mark.filterwarnings("error")
def test_there_is_no_warning_when_all_is_well():
    assert make_cipher("bfv").facts.layout == "seeded"
