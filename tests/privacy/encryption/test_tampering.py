"""A server that does anything but add is found out, and learns nothing from how."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import tenseal as ts

from privet.privacy.encryption import (
    Header,
    Malformed,
    Tampered,
    UploadRefused,
    documented,
    read_header,
)
from privet.privacy.encryption.backend import DEGREE, MODULUS, TAG_MODULUS
from privet.privacy.encryption.residues import C0_BYTES, SEED_BYTES, add, lift, pack, unpack

SIZE = 20_000  # three chunks
TEXT = "the encrypted sum is not what its clients sent, or the key is another"
ALL = ["default", "compact", "precise", "documented", "ckks"]
VECTORS = np.random.default_rng(0).uniform(-0.5, 0.5, (3, SIZE))


@pytest.fixture(scope="module")
def uploads(rounds):
    made: dict[tuple[str, int], dict[str, bytes]] = {}

    def make(name: str, round_number: int = 3) -> dict[str, bytes]:
        if (name, round_number) not in made:
            round_ = rounds(name, size=SIZE).with_terms(round=round_number)
            made[name, round_number] = {
                client: round_.encrypt(x, client=client, seed=i)
                for i, (client, x) in enumerate(zip("abc", VECTORS, strict=True))
            }
        return made[name, round_number]

    return make


def assert_tampered(round_, data: bytes) -> None:
    with pytest.raises(Tampered) as caught:
        round_.open(data)
    assert str(caught.value) == TEXT
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def renamed(data: bytes, **changes) -> bytes:
    """The same body under another header, its check value right."""
    header, body = read_header(data)
    return replace(header, **changes).to_bytes() + bytes(body)


@pytest.mark.parametrize("name", ALL)
def test_honest_work_passes(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    assert round_.open(round_.add(uploads(name))).clients == ("a", "b", "c")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "names", [("a", "b", "d"), ("a", "b", "c", "d")], ids=["another", "one more"]
)
def test_other_names_than_those_added(rounds, uploads, name, names):
    round_ = rounds(name, size=SIZE)
    data = renamed(round_.add(uploads(name)), clients=names)
    with pytest.raises((Tampered, Malformed)):
        round_.open(data)
    if len(names) == 3:
        assert_tampered(round_, data)


@pytest.mark.parametrize("name", ["documented", "ckks"])
def test_a_dropped_client(rounds, uploads, name):
    """The header names three, two were added."""
    round_ = rounds(name, size=SIZE)
    two = {client: uploads(name)[client] for client in "ab"}
    assert_tampered(round_, renamed(round_.add(two), clients=("a", "b", "c")))


def frames(data: bytes) -> tuple[Header, list[np.ndarray], list[list[bytes]]]:
    """Header, c0 of every chunk, seeds of every chunk, of an upload or a sum."""
    header, body = read_header(data)
    width = C0_BYTES + SEED_BYTES * len(header.clients)
    pieces = [bytes(body[start : start + width]) for start in range(0, len(body), width)]
    c0 = [unpack(np.frombuffer(piece[:C0_BYTES], dtype=np.uint8)) for piece in pieces]
    seeds = [
        [piece[at : at + SEED_BYTES] for at in range(C0_BYTES, width, SEED_BYTES)]
        for piece in pieces
    ]
    return header, c0, seeds


def sealed(header: Header, c0: list[np.ndarray], seeds: list[list[bytes]]) -> bytes:
    body = (pack(c) + b"".join(s) for c, s in zip(c0, seeds, strict=True))
    return header.to_bytes() + b"".join(body)


def total(*uploads: bytes, clients=("a", "b", "c"), per_chunk=None) -> bytes:
    """What a server could send that adds what it likes: `per_chunk` picks uploads by chunk."""
    parts = [frames(upload) for upload in uploads]
    header = replace(parts[0][0], kind="sum", clients=clients)
    c0, seeds = [], []
    for chunk in range(len(parts[0][1])):
        chosen = [parts[i] for i in (per_chunk or {}).get(chunk, range(len(parts)))]
        sum_ = np.zeros(DEGREE, dtype=np.uint64)
        for _, c, _ in chosen:
            sum_ = add(sum_, c[chunk], modulus=MODULUS)
        c0.append(sum_)
        seeds.append([each for _, _, s in chosen for each in s[chunk]])
    return sealed(header, c0, seeds)


def test_the_hand_made_sum_is_the_servers(rounds, uploads):
    round_ = rounds(size=SIZE)
    assert total(*uploads("default").values()) == round_.add(uploads("default"))


def test_a_doubled_client(rounds, uploads):
    """As (a, a, b) under three names, and as (a, a) under one name and under two."""
    round_ = rounds(size=SIZE)
    a, b, _ = uploads("default").values()
    assert_tampered(round_, total(a, a, b))
    assert_tampered(round_, total(a, a, clients=("a", "b")))
    with pytest.raises(Malformed):
        round_.open(total(a, a, clients=("a",)))


@pytest.mark.parametrize("name", ["documented", "ckks"])
def test_a_doubled_client_where_ciphertexts_carry_no_seed(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    accumulator = round_.cipher._backend.accumulator(round_.cipher._chunks(SIZE))
    header, body = read_header(uploads(name)["a"])
    for _ in range(2):
        accumulator.add(body)
    for clients in (("a",), ("a", "b")):
        head = replace(header, kind="sum", clients=clients).to_bytes()
        assert_tampered(round_, head + b"".join(accumulator.body()))


def test_the_server_itself_refuses_an_upload_under_two_names(rounds, uploads):
    round_ = rounds(size=SIZE)
    adder = round_.cipher.adder(round_.terms)
    adder.add(uploads("default")["a"], client="a")
    before = adder.to_bytes()
    with pytest.raises(UploadRefused, match="repeats a ciphertext"):
        adder.add(renamed(uploads("default")["a"], clients=("z",)), client="z")
    assert adder.to_bytes() == before


def test_other_clients_in_another_chunk(rounds, uploads):
    """Chunk by chunk every tag is right and every count is two."""
    round_ = rounds(size=SIZE)
    a, b, c = uploads("default").values()
    mixed = total(a, b, c, clients=("a", "b"), per_chunk={0: [0, 1], 1: [0, 2], 2: [0, 1]})
    assert_tampered(round_, mixed)


def test_two_uploads_of_one_client_are_not_mixed(rounds, uploads):
    """A client that had to encrypt twice: same name, same terms, same key, same count."""
    round_ = rounds(size=SIZE)
    a, b, _ = uploads("default").values()
    again = round_.encrypt(VECTORS[0], client="a", seed=9)
    mixed = total(a, again, b, clients=("a", "b"), per_chunk={0: [0, 2], 1: [1, 2], 2: [0, 2]})
    assert_tampered(round_, mixed)


def test_chunks_in_another_order(rounds, uploads):
    round_ = rounds(size=SIZE)
    header, c0, seeds = frames(round_.add(uploads("default")))
    assert_tampered(round_, sealed(header, [c0[1], c0[0], c0[2]], [seeds[1], seeds[0], seeds[2]]))


@pytest.mark.parametrize("name", ALL)
def test_another_round(rounds, uploads, name):
    """Replayed as it was, and under a header that claims the present."""
    now = rounds(name, size=SIZE)
    then = now.with_terms(round=2)
    old = then.add(uploads(name, 2))
    assert then.open(old).clients == ("a", "b", "c")
    assert_tampered(now, old)
    assert_tampered(now, renamed(old, terms=now.terms))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("changes", [{"clamp": 0.25}, {"run": "other"}, {"size": SIZE - 1}])
def test_other_terms_in_the_header(rounds, uploads, name, changes):
    round_ = rounds(name, size=SIZE)
    data = renamed(round_.add(uploads(name)), terms=replace(round_.terms, **changes))
    assert_tampered(round_.with_terms(**changes), data)
    if "run" in changes:
        assert_tampered(round_, data)


@pytest.mark.parametrize("name", ALL)
def test_another_key(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    data = round_.add(uploads(name))
    fresh = round_.cipher.generate()
    assert_tampered(replace(round_, key=fresh), data)
    for part in ("lattice", "tag"):
        mixture = {"lattice": round_.key.lattice, "tag": round_.key.tag, part: getattr(fresh, part)}
        key = type(fresh)(digest=fresh.digest, **mixture)
        assert_tampered(replace(round_, key=key), data)


@pytest.mark.parametrize("name", ALL)
def test_a_client_with_another_key(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    stranger = replace(round_, key=round_.cipher.generate())
    added = {**uploads(name), "c": stranger.encrypt(VECTORS[2], client="c")}
    assert_tampered(round_, round_.add(added))


@pytest.mark.parametrize("name", ["default", "compact", "precise", "documented"])
def test_a_mask_that_does_not_cancel(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    mask = np.zeros(round_.cipher.coefficients(SIZE), dtype=np.uint64)
    mask[4097] = 1
    added = {**uploads(name), "c": round_.encrypt(VECTORS[2], client="c", mask=mask)}
    assert_tampered(round_, round_.add(added))


def vectors(round_, data: bytes) -> list:
    """The TenSEAL vectors of an upload or a sum, without a key."""
    backend = round_.cipher._backend
    _, body = read_header(data)
    messages = documented._messages(
        body, chunks=round_.cipher._chunks(SIZE), vectors=backend._vectors
    )
    return [backend._vectors.parse(backend._fits.context(), each) for each in messages]


def stated(round_, clients: str, chunks: list) -> bytes:
    header = Header(
        kind="sum", digest=round_.cipher.digest, terms=round_.terms, clients=tuple(clients)
    )
    return header.to_bytes() + b"".join(documented._framed(chunks))


@pytest.mark.parametrize(
    ("name", "change"), [("documented", 1), ("documented", 2**23), ("ckks", 2**-17), ("ckks", 1)]
)
@pytest.mark.parametrize("place", [0, 1000, 2041, 2042, 2043, 2044])
def test_a_number_that_the_server_adds_to_a_documented_vector(rounds, uploads, name, change, place):
    """Values, weight and identity; what it adds to the nonce of one chunk is noticed as well."""
    round_ = rounds(name, size=SIZE)
    chunks = vectors(round_, round_.add(uploads(name)))
    assert round_.open(stated(round_, "abc", chunks)).clients == ("a", "b", "c")
    slots = round_.cipher._backend._vectors.slots
    added = [0] * slots
    added[place] = change
    assert_tampered(round_, stated(round_, "abc", [chunks[0] + added, *chunks[1:]]))


@pytest.mark.parametrize("name", ["documented", "ckks"])
def test_other_clients_in_another_chunk_of_documented_vectors(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    a, b, c = (vectors(round_, upload) for upload in uploads(name).values())
    chunks = [x + y for x, y in zip(a, b, strict=True)]
    assert round_.open(stated(round_, "ab", chunks)).clients == ("a", "b")
    chunks[1] = a[1] + c[1]
    assert_tampered(round_, stated(round_, "ab", chunks))


def test_a_first_upload_to_which_nothing_could_be_added(rounds):
    """Its message states our scale, the ciphertext in it has another: the first is refused too."""
    round_ = rounds("ckks")
    context = round_.cipher._backend._vectors.context()
    context.global_scale = 2.0**40
    message = ts.ckks_vector(context, [0.0] * 2048).serialize()[:-8] + struct.pack("<d", 2.0**50)
    header = Header(kind="upload", digest=round_.cipher.digest, terms=round_.terms, clients=("a",))
    data = header.to_bytes() + len(message).to_bytes(4, "little") + message
    with pytest.raises(Malformed, match="a ciphertext is not one of these parameters"):
        round_.cipher.adder(round_.terms).add(data, client="a")


@pytest.mark.parametrize("place", [0, 5, 4080, 4093, 4094, 4095])
@pytest.mark.parametrize(
    "change",
    [1, TAG_MODULUS, 2 * TAG_MODULUS, 2**23, 2**46, 2**47 - 1, 2**23 * TAG_MODULUS % 2**47],
)
def test_a_plaintext_that_the_server_adds(rounds, uploads, place, change):
    """BFV lets anyone add a known number to a coefficient; multiples of P must be seen as well."""
    round_ = rounds(size=SIZE)
    header, c0, seeds = frames(round_.add(uploads("default")))
    added = np.zeros(DEGREE, dtype=np.uint64)
    added[place] = change
    c0[1] = add(c0[1], lift(added, 2**47), modulus=MODULUS)
    if place >= 4094 and change % TAG_MODULUS == 0:
        # A tag counts modulo P: this changes no value, and may be let through.
        np.testing.assert_array_equal(
            round_.open(sealed(header, c0, seeds)).mean,
            round_.open(round_.add(uploads("default"))).mean,
        )
        return
    assert_tampered(round_, sealed(header, c0, seeds))


def test_a_flipped_bit_is_noticed_or_lies_within_the_noise(rounds):
    """A sample over residues and all seeds of a small sum; `test_fuzz` has more.

    A ciphertext carries noise, and a change no larger than what is left of its bound q/2t = 2^12
    is noise too: decryption is the same to the last bit. One bit in five of a residue is like that.
    """
    round_ = rounds()
    data = round_.add({c: round_.encrypt(np.ones(10), client=c) for c in "ab"})
    honest = round_.open(data)
    seeds = len(data) - 2 * SEED_BYTES
    rng = np.random.default_rng(0)
    unnoticed = 0
    for place in [*rng.integers(seeds - C0_BYTES, seeds, 500), *range(seeds, len(data))]:
        altered = bytearray(data)
        altered[place] ^= 1 << int(rng.integers(8))
        try:
            opened = round_.open(bytes(altered))
        except (Tampered, Malformed):
            continue
        unnoticed += 1
        assert place < seeds
        assert (opened.weight, opened.clients) == (honest.weight, honest.clients)
        np.testing.assert_array_equal(opened.mean, honest.mean)
    assert 0.1 < unnoticed / 500 < 0.3


def test_a_residue_that_is_none_is_refused_on_both_ends(rounds, uploads):
    round_ = rounds(size=SIZE)
    header, c0, seeds = frames(uploads("default")["a"])
    c0[2] = c0[2].copy()
    c0[2][-1] = MODULUS
    adder = round_.cipher.adder(round_.terms)
    adder.add(uploads("default")["b"], client="b")
    before = adder.to_bytes()
    with pytest.raises(Malformed, match="not below the modulus"):
        adder.add(sealed(header, c0, seeds), client="a")
    assert adder.to_bytes() == before
    with pytest.raises(Malformed, match="not below the modulus"):
        round_.open(sealed(replace(header, kind="sum"), c0, seeds))


@pytest.mark.parametrize("cut", [1, 64, 30_784])
def test_another_length_is_refused_on_both_ends(rounds, uploads, cut):
    round_ = rounds(size=SIZE)
    upload, sum_ = uploads("default")["a"], round_.add(uploads("default"))
    for data in (upload + bytes(cut), upload[:-cut]):
        with pytest.raises(Malformed, match="the body has"):
            round_.cipher.adder(round_.terms).add(data, client="a")
    for data in (sum_ + bytes(cut), sum_[:-cut]):
        with pytest.raises(Malformed, match="the body has"):
            round_.open(data)


@pytest.mark.parametrize("name", ALL)
def test_a_header_that_claims_a_huge_vector_takes_no_memory(rounds, uploads, forked, name):
    round_ = rounds(name, size=SIZE)
    huge = replace(round_.terms, size=2**40)
    data = renamed(round_.add(uploads(name)), terms=huge)

    def look() -> str:
        try:
            round_.open(data)
        except Malformed:
            return "refused"
        return "opened"

    assert forked(look, seconds=20) == "refused"
