"""Why CKKS needs rounding before anything is published, and that it gets it."""

from __future__ import annotations

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as sealapi

from privet.privacy.encryption.ckks import GRID, Words, _rounded
from privet.privacy.encryption.documented import fields
from seal_reference import saved, uncompressed

DEGREE, PRIMES, SCALE = 8192, [60, 40, 40], 2.0**40


class Eavesdropper:
    """Sees ciphertexts and what they decrypt to; wants the key (Li & Micciancio 2021).

    The real parts of all slots are those of (m + m*) / 2, where m* is m at 1/X. In SEAL's order of
    evaluation points 1/X is at N-1-i when X is at i, so each point gives one equation
    c1[i] s[i] + c1[N-1-i] s[N-1-i] = (m + m*)[i] - c0[i] - c0[N-1-i], and two ciphertexts give two
    equations in two unknowns.
    """

    def __init__(self) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(DEGREE)
        primes = sealapi.CoeffModulus.Create(DEGREE, PRIMES)
        parameters.set_coeff_modulus(primes)
        context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        self.modulus = primes[0].value()
        self._encoder = sealapi.CKKSEncoder(context)

    def equations(self, vector: bytes, published: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Factors and right-hand sides at every point, modulo the first prime."""
        c0, c1 = self._polynomials(vector)
        return c1, (self._both(published) - c0 - c0[::-1]) % self.modulus

    def solve(self, one, other) -> np.ndarray:
        """The key at every point, modulo the first prime."""
        (a, u), (b, v) = one, other
        determinant = (a * b[::-1] - a[::-1] * b) % self.modulus
        numerator = (u * b[::-1] - a[::-1] * v) % self.modulus
        inverse = np.array([pow(int(each), -1, self.modulus) for each in determinant], dtype=object)
        return numerator * inverse % self.modulus

    def _polynomials(self, vector: bytes) -> tuple[np.ndarray, np.ndarray]:
        ciphertext = dict(fields(vector))[2]
        words = np.frombuffer(uncompressed(ciphertext)[-4 * 8 * DEGREE :], dtype="<u8").reshape(
            2, 2, DEGREE
        )
        return words[0, 0].astype(object), words[1, 0].astype(object)

    def _both(self, real: np.ndarray) -> np.ndarray:
        plaintext = sealapi.Plaintext()
        self._encoder.encode((2 * real).tolist(), SCALE, plaintext)
        return _last_words(plaintext, 2 * DEGREE)[:DEGREE].astype(object)


def _last_words(thing, count: int) -> np.ndarray:
    return np.frombuffer(saved(thing)[-8 * count :], dtype="<u8")


@pytest.fixture(scope="module")
def aggregates():
    """The key, and two sums of three updates with their decryptions."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        DEGREE,
        coeff_mod_bit_sizes=PRIMES,
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = SCALE
    rng = np.random.default_rng(0)

    def aggregate():
        updates = rng.uniform(-0.05, 0.05, (3, DEGREE // 2))
        total = sum(
            (ts.ckks_vector(context, each.tolist()) for each in updates[1:]),
            start=ts.ckks_vector(context, updates[0].tolist()),
        )
        return total.serialize(), np.array(total.decrypt())

    key = _last_words(context.secret_key().data, 3 * DEGREE)[:DEGREE].astype(object)
    return key, aggregate(), aggregate()


def test_two_decryptions_at_full_precision_give_the_key_away(aggregates):
    key, *sums = aggregates
    eavesdropper = Eavesdropper()
    found = eavesdropper.solve(*(eavesdropper.equations(*each) for each in sums))
    assert (found == key).all()


def test_rounded_decryptions_do_not_give_it_to_the_same_equations(aggregates):
    key, *sums = aggregates
    eavesdropper = Eavesdropper()
    dither = Words(bytes(32), purpose=b"dither", context=b"")
    rounded = [
        (vector, _rounded(opened / 0.05, GRID, dither, chunk) * 0.05)
        for chunk, (vector, opened) in enumerate(sums)
    ]
    found = eavesdropper.solve(*(eavesdropper.equations(*each) for each in rounded))
    assert not (found == key).any()


def test_what_is_published_lies_on_the_grid(rounds):
    round_ = rounds("ckks", size=5000)
    vectors = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 5000))
    opened = round_.open(
        round_.add(
            {
                c: round_.encrypt(x, client=c, weight=0.7)
                for c, x in zip("abc", vectors, strict=True)
            }
        )
    )
    steps = opened.mean.astype(np.float64) / (0.5 * GRID)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert (opened.weight * 2**24).is_integer()


def test_the_noise_is_as_far_below_the_grid_as_stated(rounds):
    """The slots themselves, which nobody outside this test gets to see: 128 clients."""
    round_ = rounds("ckks", size=2000)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 2000).astype(np.float32)
    data = round_.add({f"{i:03}": round_.encrypt(x, client=f"{i:03}") for i in range(128)})
    header, body = round_.cipher._sum(data)
    (slots,) = round_.cipher._backend.decrypt(body, key=round_.key, header=header, length=2048)
    noise = np.abs(slots[:2000] - 128 * (x / 0.5)).max()
    assert 2**-45 < noise < 2**-36


def test_the_dither_belongs_to_the_ciphertext(rounds):
    """The same vectors encrypted again are rounded anew, or differences would show the noise."""
    round_ = rounds("ckks", size=1000)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
    one, other = (
        round_.open(round_.add({"a": round_.encrypt(x)})).mean.astype(np.float64) for _ in range(2)
    )
    differing = np.count_nonzero(one != other)
    assert 200 < differing < 500  # 2 p (1-p) of them, p uniform: a third
