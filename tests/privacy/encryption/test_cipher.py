"""From vectors to their weighted mean, with every cipher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.privacy.encryption import (
    EncryptionError,
    Malformed,
    Tampered,
    TooFewClients,
    UploadRefused,
    make_cipher,
    read_header,
)
from privet.privacy.encryption.backend import DEGREE, PROFILES
from privet.privacy.encryption.keys.secret import SecretKey
from privet.privacy.encryption.residues import to_digits

EXACT = ["default", "compact", "precise"]
ALL = [*EXACT, "ckks"]
LEVELS = {name: PROFILES[name].levels for name in EXACT}

clients = st.lists(
    st.tuples(
        st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
        st.floats(2**-20, 1),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=8,
)


def weighted_mean(vectors, weights):
    """No cleverness at all."""
    total = sum(w * np.asarray(x, dtype=np.float64) for x, w in zip(vectors, weights, strict=True))
    return total / sum(weights)


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=25)
@given(clients=clients)
def test_the_sum_is_the_exact_sum_of_the_rounded_values(rounds, name, clients):
    round_ = rounds(name, size=3)
    levels = LEVELS[name]
    uploads, expected = {}, np.zeros(3, dtype=np.int64)
    for number, (x, weight, seed) in enumerate(clients):
        uploads[str(number)] = round_.encrypt(x, client=str(number), weight=weight, seed=seed)
        rounded = to_digits(
            np.float32(x),
            weight=weight,
            clamp=0.5,
            levels=levels,
            rng=np.random.default_rng(seed),
        )
        expected += rounded.astype(np.int64) - levels
    opened = round_.open(round_.add(uploads))
    assert opened.weight == pytest.approx(sum(w for _, w, _ in clients), abs=len(clients) * 2**-47)
    found = opened.mean.astype(np.float64) * opened.weight * levels / 0.5
    np.testing.assert_array_equal(np.rint(found), expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1, 2042, 2043, 8178, 8179, 30_001])
def test_the_mean_is_the_weighted_mean(rounds, name, size):
    round_ = rounds(name, size=size)
    rng = np.random.default_rng(size)
    vectors = rng.uniform(-0.5, 0.5, (3, size)).astype(np.float32)
    weights = [1.0, 0.25, 0.5]
    uploads = {
        client: round_.encrypt(x, client=client, weight=w, seed=i)
        for i, (client, x, w) in enumerate(zip("abc", vectors, weights, strict=True))
    }
    opened = round_.open(round_.add(uploads), at_least=3)
    assert opened.mean.shape == (size,)
    assert opened.mean.dtype == np.float32
    assert opened.clients == ("a", "b", "c")
    assert opened.weight == pytest.approx(1.75, abs=2**-23)
    unit = 0.5 / LEVELS[name] if name in EXACT else 0.5 * 2**-17
    bound = (3 / 1.75 if name in EXACT else 1) * unit + 1e-7
    assert np.abs(opened.mean - weighted_mean(vectors, weights)).max() < bound


@pytest.mark.parametrize(
    ("name", "limit"), [("default", 1e-5), ("precise", 5e-7), ("ckks", 1e-5), ("compact", 2e-4)]
)
def test_the_mean_error_is_as_small_as_promised(rounds, name, limit):
    """In units of the clamp; two clients of weight one are the worst case for equal weights."""
    round_ = rounds(name, size=20_000)
    vectors = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 20_000)).astype(np.float32)
    uploads = {
        c: round_.encrypt(x, client=c, seed=ord(c)) for c, x in zip("ab", vectors, strict=True)
    }
    error = np.abs(round_.open(round_.add(uploads)).mean - weighted_mean(vectors, [1, 1])).mean()
    assert error / 0.5 <= limit


@pytest.mark.parametrize("name", EXACT)
def test_masks_that_cancel_change_nothing(rounds, name):
    round_ = rounds(name, size=9000)
    rng = np.random.default_rng(5)
    vectors = rng.uniform(-0.5, 0.5, (3, 9000))
    masks = list(rng.integers(0, 2**16, (2, DEGREE), dtype=np.uint16))
    masks.append(-masks[0] - masks[1])
    means = []
    for chosen in ([None] * 3, masks):
        uploads = {
            client: round_.encrypt(x, client=client, seed=i, mask=mask)
            for i, (client, x, mask) in enumerate(zip("abc", vectors, chosen, strict=True))
        }
        means.append(round_.open(round_.add(uploads)).mean)
    np.testing.assert_array_equal(*means)


def test_a_mask_of_another_shape_is_refused(rounds):
    round_ = rounds("default")
    assert round_.cipher.takes_masks
    for mask, complaint in [
        (np.zeros(DEGREE - 1, dtype=np.uint16), "expected are 4096 uint16"),
        (np.zeros((DEGREE, 1), dtype=np.uint16), r"of shape \(4096, 1\)"),
        (np.zeros(DEGREE, dtype=np.int16), "the mask is int16"),
        (np.zeros(DEGREE, dtype=np.uint64), "the mask is uint64"),
    ]:
        with pytest.raises(EncryptionError, match=complaint):
            round_.encrypt(np.zeros(10), mask=mask)


def test_ckks_takes_no_masks(rounds):
    round_, mask = rounds("ckks"), np.zeros(DEGREE, dtype=np.uint16)
    assert not round_.cipher.takes_masks
    with pytest.raises(EncryptionError, match="ckks takes no masks: use bfv"):
        round_.encrypt(np.zeros(10), mask=mask)
    with pytest.raises(EncryptionError, match="this scheme takes no masks"):
        round_.cipher.adder(round_.terms).unmask(mask)


@pytest.mark.parametrize("name", EXACT)
def test_the_server_takes_masks_out(rounds, name):
    """A sum under masks is noise; unmasked, it is the sum, whatever the vectors' length."""
    round_ = rounds(name, size=9000)
    rng = np.random.default_rng(5)
    masks = rng.integers(0, 2**16, (2, DEGREE), dtype=np.uint16)
    vectors, adder = rng.uniform(-0.5, 0.5, (2, 9000)), round_.cipher.adder(round_.terms)
    for client, x, mask in zip("ab", vectors, masks, strict=True):
        adder.add(round_.encrypt(x, client=client, mask=mask), client=client)
    with pytest.raises(Tampered):
        round_.open(adder.to_bytes())
    adder.unmask(-masks.sum(axis=0, dtype=np.uint16))
    opened = round_.open(adder.to_bytes())
    plain = round_.add({c: round_.encrypt(x, client=c) for c, x in zip("ab", vectors, strict=True)})
    np.testing.assert_array_equal(opened.mean, round_.open(plain).mean)


@pytest.mark.parametrize("name", ALL)
def test_a_sum_of_too_few_clients_stays_closed(rounds, name):
    round_ = rounds(name)
    data = round_.add({"a": round_.encrypt(np.ones(10))})
    with pytest.raises(TooFewClients, match="a sum of 1 clients: at_least = 2"):
        round_.open(data, at_least=2)
    assert round_.open(data, at_least=1).clients == ("a",)


@pytest.mark.parametrize("name", ALL)
def test_the_server_refuses_what_does_not_belong(rounds, name):
    round_ = rounds(name)
    adder = round_.cipher.adder(round_.terms)
    with pytest.raises(EncryptionError, match="the sum is empty"):
        adder.to_bytes()
    upload = round_.encrypt(np.ones(10), client="a")
    adder.add(upload, client="a")
    before = adder.to_bytes()
    other = rounds("compact" if name != "compact" else "default")
    for refused, complaint in [
        ((upload, "a"), "'a' is in the sum already"),
        ((upload, "b"), "'b' sent an upload of 'a'"),
        ((round_.with_terms(round=4).encrypt(np.ones(10), client="b"), "b"), "round=4"),
        ((round_.with_terms(clamp=0.25).encrypt(np.ones(10), client="b"), "b"), "clamp=0.25"),
        ((round_.with_terms(size=11).encrypt(np.ones(11), client="b"), "b"), "size=11"),
        ((round_.with_terms(run="x").encrypt(np.ones(10), client="b"), "b"), "run='x'"),
        ((other.encrypt(np.ones(10), client="b"), "b"), "'b' uses another cipher"),
    ]:
        with pytest.raises(UploadRefused, match=complaint):
            adder.add(refused[0], client=refused[1])
    with pytest.raises(Malformed, match="a sum is no upload"):
        adder.add(before, client="b")
    with pytest.raises(Malformed, match="an upload is no sum"):
        round_.open(upload)
    assert adder.to_bytes() == before
    assert adder.clients == ("a",)


@pytest.mark.parametrize("name", ["compact", "ckks"])
def test_the_server_refuses_one_client_too_many(rounds, name):
    round_ = rounds(name, size=1)
    most = round_.cipher.facts.max_clients
    adder = round_.cipher.adder(round_.terms)
    for number in range(most):
        client = f"{number:03}"
        adder.add(round_.encrypt([0.5], client=client, seed=number), client=client)
    with pytest.raises(UploadRefused, match=f"would be client {most + 1}"):
        adder.add(round_.encrypt([0.5], client="z"), client="z")
    opened = round_.open(adder.to_bytes(), at_least=most)
    assert len(opened.clients) == most
    assert opened.mean[0] == pytest.approx(0.5, abs=1e-9 if name in EXACT else 1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused(rounds, name, bad):
    x = np.zeros(10)
    x[7] = bad
    with pytest.raises(EncryptionError, match="NaN or infinity"):
        rounds(name).encrypt(x)


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.zeros(9, dtype=np.float32), r"shape \(9,\): expected are 10 floats"),
        (np.zeros((2, 5), dtype=np.float32), "expected are 10 floats"),
        (np.zeros(10, dtype=np.int64), "the vector is int64"),
        (np.zeros(10, dtype=np.float16), "the vector is float16"),
    ],
)
def test_a_vector_of_another_kind_is_refused(rounds, x, complaint):
    round_ = rounds()
    with pytest.raises(EncryptionError, match=complaint):
        round_.cipher.encrypt(
            x,
            key=round_.key,
            terms=round_.terms,
            weight=1.0,
            client="a",
            rng=np.random.default_rng(0),
        )


def test_clipped_values_are_counted_and_bounded(rounds):
    round_ = rounds()
    x = np.array([0.6, -0.7, 0.5, -0.5, 0, 0, 0, 0, 0, 1e30], dtype=np.float32)
    upload = round_.cipher.encrypt(
        x,
        key=round_.key,
        terms=round_.terms,
        weight=0.5,
        client="a",
        rng=np.random.default_rng(0),
    )
    assert upload.clipped == 3
    opened = round_.open(round_.add({"a": upload.data}))
    np.testing.assert_allclose(opened.mean, np.clip(x, -0.5, 0.5), atol=0.5 / 32767 / 0.5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("clamp", [1e-30, 1e-3, 1e30])
def test_any_clamp_will_do(rounds, name, clamp):
    round_ = rounds(name, clamp=clamp)
    x = np.linspace(-clamp, clamp, 10)
    opened = round_.open(round_.add({"a": round_.encrypt(x)}))
    np.testing.assert_allclose(opened.mean / clamp, x / clamp, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_a_kept_sum_can_be_opened_later_by_what_it_says(rounds, ciphers, name):
    round_ = rounds(name)
    kept = round_.add({c: round_.encrypt(np.full(10, 0.25), client=c) for c in ("b", "a")})
    header, _ = read_header(kept)
    assert (header.kind, header.terms, header.clients) == ("sum", round_.terms, ("a", "b"))
    opened = ciphers(name).decrypt(
        kept, key=round_.key, run=header.terms.run, round=header.terms.round, at_least=2
    )
    np.testing.assert_allclose(opened.mean, 0.25, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_every_holder_of_the_key_opens_the_same_mean(rounds, name):
    round_ = rounds(name, size=500)
    x = np.random.default_rng(0).normal(0, 0.2, 500)
    data = round_.add({c: round_.encrypt(x, client=c) for c in ("a", "b")})
    first, second = round_.open(data), round_.open(data)
    np.testing.assert_array_equal(first.mean, second.mean)
    assert first.weight == second.weight


@pytest.mark.parametrize("name", ALL)
def test_the_facts_are_what_is_measured(rounds, name):
    facts, values = rounds(name).cipher.facts, rounds(name).cipher._codec.values
    # Nine chunks more, and nothing else.
    short, long = (
        len(rounds(name, size=chunks * values).encrypt(np.zeros(chunks * values)))
        for chunks in (1, 10)
    )
    measured = (long - short) / (9 * values)
    assert measured == pytest.approx(facts.bytes_per_parameter, rel=0.001)
    assert facts.security_bits >= 128
    assert (facts.security_bits == 192) == (facts.scheme == "bfv")


def test_uploads_are_as_small_as_promised():
    for profile, limit in [("default", 3.51), ("precise", 3.51), ("compact", 2.34)]:
        assert make_cipher("bfv", profile=profile).facts.bytes_per_parameter <= limit


@pytest.mark.parametrize(("name", "limit"), [("default", 24_000), ("compact", 18_000)])
def test_the_head_of_a_large_network_is_a_small_message_each_way(rounds, name, limit):
    """5,130 numbers are 20.5 kB in the clear: coefficients that hold nothing are not sent."""
    round_ = rounds(name, size=5130)
    uploads = {client: round_.encrypt(np.zeros(5130), client=client) for client in "abcdefghij"}
    for message in (uploads["a"], round_.add(uploads)):
        assert len(message) < limit


@given(size=st.integers(1, 13_000), name=st.sampled_from(["default", "compact", "precise"]))
@settings(max_examples=30)
def test_vectors_of_any_size_come_back(rounds, size, name):
    round_, x = rounds(name, size=size), np.linspace(-0.4, 0.4, size)
    mean = round_.open(round_.add({c: round_.encrypt(x, client=c) for c in "ab"})).mean
    np.testing.assert_allclose(mean, x, atol=0.6 / LEVELS[name])


def test_two_uploads_of_the_same_vector_share_nothing(rounds):
    round_ = rounds()
    one, other = (round_.encrypt(np.ones(10)) for _ in range(2))
    start = len(one) - len(read_header(one)[1])
    equal = np.frombuffer(one[start:], np.uint8) == np.frombuffer(other[start:], np.uint8)
    assert equal.mean() < 0.01


def test_an_old_warning_of_tenseal_is_not_printed(rounds, capfd):
    """TenSEAL says so on stdout when it has to cut a vector into pieces itself."""
    round_ = rounds("ckks", size=9000)
    round_.open(round_.add({"a": round_.encrypt(np.zeros(9000))}))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
@pytest.mark.parametrize(
    "lattice", [b"", b"garbage", b"\x00" * 1000], ids=["empty", "text", "zeros"]
)
def test_a_key_of_somebody_elses_making_is_one_that_can_be_used(
    scheme: str, lattice: bytes
) -> None:
    cipher = make_cipher(scheme)
    cipher.check_key(cipher.generate())
    with pytest.raises(EncryptionError):
        cipher.check_key(SecretKey.fresh(digest=bytes(16), lattice=cipher.generate().lattice))
    if lattice or scheme == "ckks":
        with pytest.raises(EncryptionError):
            cipher.check_key(SecretKey.fresh(digest=cipher.digest, lattice=lattice))


def test_a_key_without_its_secret_part_is_no_key() -> None:
    from privet.privacy.encryption import documented

    cipher = make_cipher("ckks")
    context = documented._private(cipher.generate().lattice)
    public = documented._serialized(context, secret=False)
    with pytest.raises(EncryptionError):
        cipher.check_key(SecretKey.fresh(digest=cipher.digest, lattice=public))
