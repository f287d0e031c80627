"""Short secrets: exact products, the distribution they are drawn from, and SEAL's word for it."""

from __future__ import annotations

import hashlib
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from privet.privacy.encryption import Header, SecretKey, Tampered, Terms, lattice, read_header
from privet.privacy.encryption.backend import (
    COINS,
    CUT_ERROR,
    DEGREE,
    MODULUS,
    PROFILES,
    SECRET_BITS,
    coins_bound,
    noise_bound,
)
from privet.privacy.encryption.codec import bound_to
from privet.privacy.encryption.lattice import LatticeBackend, PublicPolynomials, Short, spectrum
from privet.privacy.encryption.residues import Integers, add, lift, narrow, read_frames
from seal_reference import Reference

profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
TERMS = Terms(run="run", round=3, size=10, clamp=0.5)
Q = np.uint64(MODULUS)
LEVEL = 1e-3
"""Of every chi-square test below; what they look at follows from fixed keys."""


def key_of(number: int = 0) -> SecretKey:
    return SecretKey(digest=bytes(16), lattice=b"", tag=bytes([number]) * 32)


def constant(value: int) -> Short:
    return np.full(DEGREE, value, dtype=np.int64)


def alternating(value: int) -> Short:
    return constant(value) * (1 - 2 * (np.arange(DEGREE) % 2))


def monomial(place: int, value: int = 1) -> Short:
    found = constant(0)
    found[place] = value
    return found


def times(residues: Integers, secret: Short) -> Integers:
    """The product by our arithmetic, with these residues as the public polynomial."""
    with patch.object(lattice, "words", return_value=residues):
        return PublicPolynomials(b"").times(0, spectrum(secret))


def public(context: bytes, chunk: int) -> Integers:
    """a_k: a_k times one."""
    return PublicPolynomials(context).times(chunk, spectrum(monomial(0)))


def exact_product(residues: Integers, secret: Short) -> list[int]:
    """In Python's integers: both polynomials at 2^128 (Kronecker), then X^4096 = -1."""
    offset, places = 2**127, 2 * DEGREE
    own = _at(np.maximum(secret, 0)) - _at(np.maximum(-secret, 0))
    # With what makes every coefficient positive.
    product = _at(residues) * own + int.from_bytes(offset.to_bytes(16, "little") * places, "little")
    digits = product.to_bytes(16 * places + 1, "little")
    coefficients = [
        int.from_bytes(digits[16 * place : 16 * place + 16], "little") - offset
        for place in range(places)
    ]
    low, high = coefficients[:DEGREE], coefficients[DEGREE:]
    return [(a - b) % MODULUS for a, b in zip(low, high, strict=True)]


def _at(coefficients: np.ndarray) -> int:
    words = np.zeros((len(coefficients), 2), dtype="<u8")
    words[:, 0] = coefficients
    return int.from_bytes(words.tobytes(), "little")


def some_residues(seed: int) -> Integers:
    return np.random.default_rng(seed).integers(0, MODULUS, DEGREE, dtype=np.uint64)


LARGEST = np.full(DEGREE, MODULUS - 1, dtype=np.uint64)
PUBLIC = {
    "random": some_residues(0),
    "largest": LARGEST,
    "largest limbs": np.full(DEGREE, 2**59 - 1, dtype=np.uint64),
    "alternating": np.where(np.arange(DEGREE) % 2, LARGEST, np.uint64(0)),
    "one": monomial(0).view(np.uint64),
}
SHORT = {
    "one": monomial(0),
    "the last power": monomial(DEGREE - 1, -1),
    "all heads": constant(64),
    "all tails": constant(-64),
    "alternating": alternating(64),
    "128 clients": constant(8192),
    "128 alternating": alternating(8192),
    "the largest of 16 bits": constant(2**15 - 1),
    "the smallest of 16 bits": constant(-(2**15)),
    "alternating 16 bits": alternating(2**15 - 1),
}


@pytest.mark.parametrize("secret", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize("residues", PUBLIC.values(), ids=PUBLIC)
def test_products_are_exact(residues, secret):
    assert times(residues, secret).tolist() == exact_product(residues, secret)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    largest=st.sampled_from([1, 64, 8192, 2**15 - 1]),
    placed=st.dictionaries(st.integers(0, DEGREE - 1), st.integers(-(2**15), 2**15 - 1)),
    dense=st.booleans(),
)
def test_products_with_any_short_secret_are_exact(seed, largest, placed, dense):
    rng = np.random.default_rng(seed)
    secret = rng.integers(-largest, largest + 1, DEGREE) if dense else constant(0)
    for place, value in placed.items():
        secret[place] = value
    residues = some_residues(seed)
    assert times(residues, secret).tolist() == exact_product(residues, secret)


@pytest.mark.parametrize(
    ("secret", "limit"),
    [
        (lattice.draw_short(bytes(32), 0), 2**-16),
        (sum(lattice.draw_short(bytes(32), place) for place in range(128)), 2**-12),
        (constant(8192), 2**-5),
        (alternating(8192), 2**-5),
        (constant(-(2**15)), 2**-3),
        (alternating(2**15 - 1), 2**-3),
    ],
    ids=["a client", "128 clients", "all heads", "heads and tails", "16 bits", "16 bits in turn"],
)
def test_transforms_stay_far_from_where_rounding_would_err(secret, limit):
    """The distance of a product from the next integer; from a half on it would be wrong."""
    distances = []

    def rint(values: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        rounded = np.round(values)
        distances.append(np.abs(values - rounded).max())
        out[...] = rounded
        return out

    with patch.object(lattice.np, "rint", rint):
        for residues in PUBLIC.values():
            times(residues, secret)
    assert len(distances) == len(PUBLIC)
    assert max(distances) < limit


def test_residues_of_a_public_polynomial_are_below_the_modulus():
    ends = [0, MODULUS - 1, MODULUS, 2**60 - 1, 2**60, 2**64 - 1]
    everything = np.resize(np.array(ends, dtype=np.uint64), DEGREE)
    found = times(everything, monomial(0))
    assert found.tolist() == [int(each) % 2**60 % MODULUS for each in everything.tolist()]


def test_every_term_and_every_chunk_has_a_public_polynomial_of_its_own():
    key = key_of()
    contexts = [
        bound_to(Terms(**{**vars(TERMS), **change}), key)
        for change in ({}, {"run": "other"}, {"round": 4}, {"size": 11}, {"clamp": 0.25})
    ]
    contexts.append(bound_to(TERMS, SecretKey(digest=bytes(15) + b"1", lattice=b"", tag=key.tag)))
    found = np.concatenate([public(each, chunk) for each in contexts for chunk in range(4)])
    assert len(np.unique(found)) == len(found)
    upper = np.bincount((found >> np.uint64(52)).astype(np.int64), minlength=256)
    assert stats.chisquare(upper).pvalue > LEVEL


def test_all_holders_of_keys_find_the_same_public_polynomial():
    """One that nobody chose: the words of AES-256 under a hash, cut to residues."""
    context = bound_to(TERMS, key_of(1))
    assert context == bound_to(TERMS, key_of(2))
    key = hashlib.sha256(b"privet public polynomials 1" + context).digest()
    for chunk in (0, 1, 500):
        expected = [word % 2**60 % MODULUS for word in lattice.words(key, chunk, DEGREE).tolist()]
        assert public(context, chunk).tolist() == expected


def test_words_of_two_places_do_not_overlap():
    found = np.concatenate([lattice.words(bytes(32), place, 2 * DEGREE) for place in range(20)])
    assert len(np.unique(found)) == len(found)


@given(st.lists(st.tuples(*2 * [st.integers(0, MODULUS - 1)]), min_size=1))
@example([(0, 0), (0, MODULUS - 1), (MODULUS - 1, 0), (MODULUS - 1, MODULUS - 1)])
def test_subtraction_is_modular(pairs):
    a, b = (np.array(column, dtype=np.uint64) for column in zip(*pairs, strict=True))
    assert lattice.subtract(a, b).tolist() == [(x - y) % MODULUS for x, y in pairs]


# How messages lie in residues.


def exact_lift(plaintext: int, t: int) -> int:
    return (2 * MODULUS * plaintext + t) // (2 * t)


def edges(t: int) -> list[int]:
    some = np.random.default_rng(0).integers(0, t, 2000).tolist()
    return [0, 1, 2, t // 2 - 1, t // 2, t - 2, t - 1, *some]


moduli = pytest.mark.parametrize("t", [2**bits for bits in (31, 32, 40, 46, 47, 48, 50)])


@moduli
def test_a_lifted_message_is_the_nearest_multiple(t):
    lifted = lift(np.array(edges(t), dtype=np.uint64), t).tolist()
    assert max(lifted) < MODULUS
    assert lifted == [exact_lift(plaintext, t) for plaintext in edges(t)]


@moduli
def test_what_was_lifted_is_found_in_all_the_room_for_noise(t):
    room = MODULUS // (2 * t) - 3
    plaintexts = np.array(edges(t), dtype=np.uint64)
    for error in (-room, -1, 0, 1, room):
        noisy = (lift(plaintexts, t) + np.uint64(error % MODULUS)) % Q
        assert (lattice._rounded(noisy, t) == plaintexts).all()
    for error in (-room - 5, room + 5):
        noisy = (lift(plaintexts, t) + np.uint64(error % MODULUS)) % Q
        assert (lattice._rounded(noisy, t) != plaintexts).all()


def noisy_sum(plaintext: Integers, error: int, t: int) -> Integers:
    """A chunk whose error is the same in every coefficient, under the secret one."""
    noise = np.full(DEGREE, error % MODULUS, dtype=np.uint64)
    masked = add(public(b"", 0), noise, modulus=MODULUS)
    return add(masked, lift(plaintext, t), modulus=MODULUS)


@profiles
@pytest.mark.parametrize("sign", [1, -1])
def test_more_noise_than_allowed_would_not_open(profile, sign):
    """The bound on clients is needed: just above q / 2t every coefficient opens to another."""
    t = profile.plain_modulus
    plaintext = np.random.default_rng(0).integers(0, t, DEGREE, dtype=np.uint64)
    opened = []
    for error in (MODULUS // (2 * t) - 3, MODULUS // (2 * t) + 2):
        residues = [noisy_sum(plaintext, sign * error, t)]
        opened += lattice.decrypt(residues, monomial(0), context=b"", plain_modulus=t)
    np.testing.assert_array_equal(opened[0], plaintext)
    np.testing.assert_array_equal(opened[1], (plaintext + np.uint64(sign % t)) % np.uint64(t))


@pytest.mark.parametrize("clients", [1, 2, 16, 128, 1000])
def test_the_noise_bound_is_one(clients):
    """Against the exact distribution of all coins, and not wider than twice what it must be."""
    coins, rounding = COINS * clients, clients + CUT_ERROR * (clients + 1)
    excess = noise_bound(clients) - rounding
    assert excess == coins_bound(clients)

    def log2_beyond(distance: int) -> float:
        return (stats.binom.logsf(coins // 2 + distance - 1, coins, 0.5) + np.log(2)) / np.log(2)

    assert log2_beyond(excess) <= -128
    assert excess > 64 or log2_beyond(excess // 2) > -128


# What an upload hides, and how.


@pytest.fixture
def fixed_entropy(monkeypatch):
    """The same uploads at every run of the tests."""
    rng = np.random.default_rng(7)
    monkeypatch.setattr(lattice.os, "urandom", rng.bytes)


class Sent:
    """An upload of zeros, and what a holder of the key sees in it."""

    def __init__(
        self, *, chunks: int = 1, mask=None, key: SecretKey | None = None, t: int = 2**47
    ) -> None:
        key = key or key_of()
        self.backend, zeros = LatticeBackend(t), np.zeros(DEGREE, dtype=np.uint64)
        self.residues: list[Integers] = []
        with patch.object(lattice, "narrow", self._narrow):
            parts = self.backend.encrypt([zeros] * chunks, key=key, terms=TERMS, mask=mask)
            self.body, context = memoryview(b"".join(parts)), bound_to(TERMS, key)
        frames = read_frames(self.body, length=chunks * DEGREE, clients=1)
        self.hidden = frames.secret
        self.cut = list(frames.chunks())
        pad = lattice._pad(key, context, frames.nonces[0])
        self.secret = lattice._signed(self.hidden - pad)
        self.context = context

    def _narrow(self, residues: Integers) -> Integers:
        self.residues.append(residues.copy())
        return narrow(residues)

    def errors(self) -> np.ndarray:
        """What is left of zeros when a_k s is taken away."""
        polynomials, own = PublicPolynomials(self.context), spectrum(self.secret)
        left = [
            lattice.subtract(residues, polynomials.times(chunk, own)).astype(np.int64)
            for chunk, residues in enumerate(self.residues)
        ]
        found = np.concatenate(left)
        return np.where(found > MODULUS // 2, found - MODULUS, found)


def binomial_pvalue(found: np.ndarray) -> float:
    """Chi-square against 128 coins less 64, tails together."""
    edge = 20
    inner = np.arange(-edge, edge + 1) + COINS // 2
    expected = stats.binom.pmf(inner, COINS, 0.5)
    expected[[0, -1]] = stats.binom.cdf(COINS // 2 - edge, COINS, 0.5)
    observed = np.bincount(np.clip(found, -edge, edge) + edge, minlength=len(inner))
    return stats.chisquare(observed, expected * len(found)).pvalue


def uniform_pvalue(found: np.ndarray, *, bits: int = 16) -> float:
    """Chi-square of numbers of so many bits, by their upper and their lower 8."""
    counts = [np.bincount(found >> shift & 255, minlength=256) for shift in (0, bits - 8)]
    return min(stats.chisquare(each).pvalue for each in counts)


def test_short_polynomials_are_coins():
    drawn = np.concatenate([lattice.draw_short(bytes(32), place) for place in range(100)])
    assert binomial_pvalue(drawn) > LEVEL
    # Neighbours know nothing of each other: the mean of 409,600 products of deviation 32.
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 4 * 32 / np.sqrt(len(drawn))


@pytest.mark.parametrize(("bits", "expected"), [(0, -64), (2**64 - 1, 64), (0x5555555555555555, 0)])
def test_the_coins_of_a_short_polynomial_are_counted_all(bits, expected):
    with patch.object(lattice, "words", return_value=np.full(2 * DEGREE, bits, dtype=np.uint64)):
        assert lattice.draw_short(bytes(32), 0).tolist() == [expected] * DEGREE


def test_secrets_and_errors_are_coins(fixed_entropy):
    sent = [Sent(chunks=3) for _ in range(20)]
    assert binomial_pvalue(np.concatenate([each.secret for each in sent])) > LEVEL
    errors = np.array([each.errors() for each in sent])
    assert binomial_pvalue(errors.flatten()) > LEVEL
    assert len({chunk.tobytes() for upload in errors for chunk in upload.reshape(3, -1)}) == 60


def test_what_is_sent_of_a_secret_is_uniform(fixed_entropy):
    """To whoever has no key; and so is the difference of two, whose pads are therefore others."""
    hidden = [Sent().hidden for _ in range(20)]
    assert uniform_pvalue(np.concatenate(hidden), bits=SECRET_BITS) > LEVEL
    apart = np.concatenate(hidden[:10]) - np.concatenate(hidden[10:])
    assert uniform_pvalue(apart % 2**SECRET_BITS, bits=SECRET_BITS) > LEVEL


def test_pads_belong_to_key_terms_and_nonce():
    one, other = bytes(16), bytes(15) + b"1"
    context = bound_to(TERMS, key_of())
    pads = [
        lattice._pad(key_of(), context, one),
        lattice._pad(key_of(1), context, one),
        lattice._pad(key_of(), context, other),
        lattice._pad(key_of(), context[:-1] + b"m", one),
    ]
    for place, pad in enumerate(pads):
        assert pad.shape == (DEGREE,)
        for another in pads[:place]:
            assert uniform_pvalue(pad - another) > LEVEL


def test_an_upload_is_noise_to_the_wrong_key_and_to_the_right_one_while_masked(fixed_entropy):
    header = Header(kind="sum", digest=bytes(16), terms=TERMS, clients=("a",))
    mask = np.random.default_rng(0).integers(0, 2**16, DEGREE, dtype=np.uint16)
    for sent, key in ((Sent(chunks=4, mask=mask), key_of()), (Sent(chunks=4), key_of(1))):
        opened = np.concatenate(
            list(sent.backend.decrypt(sent.body, key=key, header=header, length=4 * DEGREE))
        )
        assert uniform_pvalue((opened >> np.uint64(31)).astype(np.int64)) > LEVEL
    unmasked = Sent()
    (opened,) = unmasked.backend.decrypt(unmasked.body, key=key_of(), header=header, length=DEGREE)
    assert not opened.any()


def test_residues_are_uniform_to_who_has_no_secret(fixed_entropy):
    found = np.concatenate(Sent(chunks=20).cut)
    assert len(found) == 20 * DEGREE
    for shift in (0, 20, 40):
        some = (found >> np.uint64(shift) & np.uint64(2**16 - 1)).astype(np.int64)
        assert uniform_pvalue(some) > LEVEL


def test_uploads_share_nothing():
    """Nor do their chunks, their differences included: no secret and no error serves twice."""
    one, other = Sent(chunks=3), Sent(chunks=3)
    assert (one.secret != other.secret).mean() > 0.9
    residues = np.array([*one.residues, *other.residues])
    assert len(np.unique(residues)) == residues.size
    for first, second in zip(one.residues, other.residues, strict=True):
        apart = lattice.subtract(first, second)
        assert np.minimum(apart, Q - apart).min() > 2**36
    assert len({chunk.tobytes() for chunk in one.errors().reshape(3, -1)}) == 3


def test_parent_and_child_processes_draw_other_secrets(forked):
    def drawn() -> str:
        sent = Sent()
        return sent.secret.tobytes().hex() + "/" + sent.errors().tobytes().hex()

    found = [drawn(), forked(drawn, seconds=20), forked(drawn, seconds=20), drawn()]
    assert len({each for text in found for each in text.split("/")}) == 8


def test_secrets_come_from_no_generator_that_could_be_seeded(rounds):
    """Neither numpy's own state nor that of the rounding, which draws what it needs and no more."""
    round_ = rounds(size=10)
    x, states, bodies = np.zeros(10, dtype=np.float32), [], []
    for _ in range(2):
        np.random.seed(0)
        before, rng = np.random.get_state()[1].tolist(), np.random.default_rng(0)
        upload = round_.cipher.encrypt(
            x, key=round_.key, terms=round_.terms, weight=1.0, client="a", rng=rng
        )
        assert np.random.get_state()[1].tolist() == before
        bodies.append(read_header(upload.data)[1])
        states.append(rng.bit_generator.state)
    alone = np.random.default_rng(0)
    alone.random(10, dtype=np.float32)
    assert states == [alone.bit_generator.state] * 2
    one, other = (np.frombuffer(body, dtype=np.uint8) for body in bodies)
    assert (one == other).mean() < 0.01


@pytest.mark.parametrize("change", [1, 2**10, -1])
@pytest.mark.parametrize("place", [0, DEGREE - 1])
def test_a_sum_of_secrets_that_is_off_by_one_number_opens_to_noise(rounds, change, place):
    """And one that is beyond what honest clients can reach, to which 11 bits wrap."""
    round_ = rounds(size=10)
    mask = np.zeros(DEGREE, dtype=np.uint16)
    mask[place] = change % 2**16
    with pytest.raises(Tampered):
        round_.open(round_.add({"a": round_.encrypt(np.zeros(10), mask=mask)}))


# What SEAL says.


@pytest.fixture(scope="module")
def references():
    made: dict[int, Reference] = {}
    return lambda t: made.setdefault(t, Reference(t)) if t not in made else made[t]


def negative(residues: Integers) -> Integers:
    return lattice.subtract(np.zeros_like(residues), residues)


@profiles
@pytest.mark.parametrize("clients", [1, 3, "all"])
def test_seal_opens_the_same_sums(references, profile, clients):
    """Its secret key is the sum of secrets, its ciphertext the sum of c_k beside -a_k."""
    t, chunks = profile.plain_modulus, 2
    clients = profile.max_clients if clients == "all" else clients
    rng, total = np.random.default_rng(clients), constant(0)
    sums = [np.zeros(DEGREE, dtype=np.uint64) for _ in range(chunks)]
    plaintexts = rng.integers(0, t, (clients, chunks, DEGREE), dtype=np.uint64)
    for client, own in enumerate(plaintexts):
        secret = lattice.draw_short(rng.bytes(32), client)
        total += secret
        encrypted = lattice.encrypt(own, secret, context=b"c", plain_modulus=t)
        sums = [add(a, b, modulus=MODULUS) for a, b in zip(sums, encrypted, strict=True)]
    ours = list(lattice.decrypt(sums, total, context=b"c", plain_modulus=t))
    np.testing.assert_array_equal(ours, plaintexts.sum(axis=0) % np.uint64(t))
    reference = references(t)
    for chunk, c0 in enumerate(sums):
        c1 = negative(public(b"c", chunk))
        np.testing.assert_array_equal(reference.decrypt(c0, c1, total), ours[chunk])
        # A budget of b bits: noise times t, over q, is below 2^-(b+1).
        budget = reference.budget(c0, c1, total)
        assert MODULUS / t / 2 ** (budget + 2) <= noise_bound(clients)


@profiles
def test_we_open_what_seal_encrypted(references, profile):
    t = profile.plain_modulus
    reference = references(t)
    secret = reference.own_secret()
    assert set(secret.tolist()) == {-1, 0, 1}
    plaintexts = np.random.default_rng(0).integers(0, t, (2, DEGREE), dtype=np.uint64)
    for plaintext in plaintexts:
        c0, c1 = reference.encrypt(plaintext)
        with patch.object(lattice, "words", return_value=negative(c1)):
            (opened,) = lattice.decrypt([c0], secret, context=b"", plain_modulus=t)
        np.testing.assert_array_equal(opened, plaintext)


@profiles
def test_seal_lifts_messages_to_the_same_place(references, profile):
    t = profile.plain_modulus
    plaintext = np.resize(np.array(edges(t), dtype=np.uint64), DEGREE)
    np.testing.assert_array_equal(references(t).lifted(plaintext), lift(plaintext, t))
