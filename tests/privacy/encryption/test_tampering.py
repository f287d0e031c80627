"""A server that does anything but add is found out, and learns nothing from how."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from unittest.mock import Mock

import numpy as np
import pytest
import tenseal as ts

from privet.privacy.encryption import (
    Header,
    Malformed,
    Tampered,
    UploadRefused,
    documented,
    lattice,
    read_header,
)
from privet.privacy.encryption.backend import DEGREE, MODULUS, TAG_MODULUS
from privet.privacy.encryption.codec import bound_to
from privet.privacy.encryption.residues import (
    NONCE_BYTES,
    SECRET_BYTES,
    SENT_BYTES,
    add,
    lift,
    narrow,
    pack,
    pack_secret,
    read_frames,
    widen,
)

SIZE = 20_000  # three chunks
TEXT = "the encrypted sum is not what its clients sent, or the key is another"
EXACT = ["default", "compact", "precise"]
ALL = [*EXACT, "ckks"]
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


@pytest.mark.parametrize("name", ALL)
def test_a_dropped_client(rounds, uploads, name):
    """The header names three, two were added."""
    round_ = rounds(name, size=SIZE)
    two = round_.add({client: uploads(name)[client] for client in "ab"})
    if name == "ckks":
        assert_tampered(round_, renamed(two, clients=("a", "b", "c")))
        return
    sum_ = frames(two)
    # The length gives away how many nonces there are: the server has to make one up.
    assert_tampered(round_, replace(sum_, nonces=[*sum_.nonces, bytes(16)]).bytes("abc"))
    for left_out in "ab":
        only = frames(uploads(name)[left_out])
        assert_tampered(round_, replace(sum_, nonces=only.nonces).bytes(left_out))


@dataclass(frozen=True)
class Parts:
    """An upload or a sum, taken apart."""

    header: Header
    residues: list[np.ndarray]
    """What is sent of them, one array for every chunk."""
    nonces: list[bytes]
    secret: np.ndarray

    def bytes(self, clients: Iterable[str] | None = None) -> bytes:
        """Put together, as a sum of these clients or as it was."""
        header = self.header
        if clients is not None:
            header = replace(header, kind="sum", clients=tuple(clients))
        body = (*map(pack, self.residues), *self.nonces, pack_secret(self.secret))
        return header.to_bytes() + b"".join(body)


def frames(data: bytes) -> Parts:
    header, body = read_header(data)
    nonces = len(header.clients)
    length = (len(body) - nonces * NONCE_BYTES - SECRET_BYTES) // SENT_BYTES
    read = read_frames(body, length=length, clients=nonces)
    return Parts(header, list(read.chunks()), list(read.nonces), read.secret.copy())


def total(*uploads: bytes, clients: Iterable[str] = "abc", per_chunk=None, secrets=None) -> bytes:
    """What a server could send that adds what it likes: `per_chunk` picks uploads by chunk.

    `secrets` says which of them it counts among nonces and secrets, all if it does not.
    """
    parts = [frames(upload) for upload in uploads]
    everyone = range(len(parts))
    residues = []
    for chunk in range(len(parts[0].residues)):
        chosen = (per_chunk or {}).get(chunk, everyone)
        residues.append(sum(parts[place].residues[chunk] for place in chosen))
    counted = [parts[place] for place in secrets or everyone]
    nonces = [nonce for each in counted for nonce in each.nonces]
    secret = sum((each.secret for each in counted), start=np.zeros(DEGREE, dtype=np.uint16))
    return Parts(parts[0].header, residues, nonces, secret).bytes(clients)


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


def test_a_doubled_ckks_client(rounds, uploads):
    """Its ciphertexts carry nothing that the server could see twice."""
    round_ = rounds("ckks", size=SIZE)
    accumulator = round_.cipher._backend.accumulator(round_.cipher._codec.length(SIZE))
    header, body = read_header(uploads("ckks")["a"])
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
    with pytest.raises(UploadRefused, match="repeats one that is in the sum already"):
        adder.add(renamed(uploads("default")["a"], clients=("z",)), client="z")
    assert adder.to_bytes() == before


@pytest.mark.parametrize("secrets", [[0, 1], [0, 2], [0, 1, 2]])
def test_other_clients_in_another_chunk(rounds, uploads, secrets):
    """One sum of secrets opens all chunks: others than it is of are noise, tags or no tags."""
    round_ = rounds(size=SIZE)
    mixed = total(
        *uploads("default").values(),
        clients="abc"[: len(secrets)],
        per_chunk={0: [0, 1], 1: [0, 2], 2: [0, 1]},
        secrets=secrets,
    )
    assert_tampered(round_, mixed)


def test_two_uploads_of_one_client_are_not_mixed(rounds, uploads):
    """A client that had to encrypt twice: same name, same terms, same key, same count."""
    round_ = rounds(size=SIZE)
    a, b, _ = uploads("default").values()
    again = round_.encrypt(VECTORS[0], client="a", seed=9)
    for secrets in ([0, 2], [1, 2]):
        mixed = total(
            a, again, b, clients="ab", per_chunk={0: [0, 2], 1: [1, 2], 2: [0, 2]}, secrets=secrets
        )
        assert_tampered(round_, mixed)


def test_two_uploads_of_one_client_under_one_secret_are_not_mixed(rounds, monkeypatch):
    """What no honest client does; then it is the nonce in the trailer that tells them apart."""
    round_ = rounds(size=SIZE)
    secret = lattice.draw_short(bytes(32), 0)
    drawn = lattice.draw_short
    monkeypatch.setattr(
        lattice,
        "draw_short",
        # The secret is what is drawn first.
        Mock(side_effect=[secret, *(drawn(bytes(32), 1 + place) for place in range(3))] * 2),
    )
    one, other = (round_.encrypt(VECTORS[0], client="a", seed=9) for _ in range(2))
    for chosen in ([0, 0, 0], [1, 1, 1]):
        whole = total(
            one, other, clients="a", per_chunk={k: [c] for k, c in enumerate(chosen)}, secrets=[0]
        )
        assert round_.open(whole).clients == ("a",)
    mixed = total(one, other, clients="a", per_chunk={0: [0], 1: [1], 2: [0]}, secrets=[0])
    assert_tampered(round_, mixed)


def test_chunks_in_another_order(rounds, uploads):
    round_ = rounds(size=SIZE)
    sum_ = frames(round_.add(uploads("default")))
    for order in ([1, 0, 2], [0, 2, 1], [0, 0, 2]):
        residues = [sum_.residues[place] for place in order]
        assert_tampered(round_, replace(sum_, residues=residues).bytes())


def test_the_order_of_nonces_means_nothing(rounds, uploads):
    round_ = rounds(size=SIZE)
    sum_ = frames(round_.add(uploads("default")))
    turned = replace(sum_, nonces=sum_.nonces[::-1]).bytes()
    np.testing.assert_array_equal(round_.open(turned).mean, round_.open(sum_.bytes()).mean)


@pytest.mark.parametrize("other", [lambda nonces: [*nonces[:2], bytes(16)], lambda n: [n[0]] * 3])
def test_other_nonces(rounds, uploads, other):
    round_ = rounds(size=SIZE)
    sum_ = frames(round_.add(uploads("default")))
    assert_tampered(round_, replace(sum_, nonces=other(sum_.nonces)).bytes())


@pytest.mark.parametrize("place", [0, 1, DEGREE - 1])
@pytest.mark.parametrize("bit", [0, 7, 10])
def test_another_sum_of_secrets(rounds, uploads, place, bit):
    round_ = rounds(size=SIZE)
    sum_ = frames(round_.add(uploads("default")))
    sum_.secret[place] ^= np.uint16(1 << bit)
    assert_tampered(round_, sum_.bytes())


def test_a_secret_that_the_server_adds_on_both_sides_changes_nothing(rounds, uploads):
    """Anyone can add an encryption of zero: a_k is public. It is the same sum in other words."""
    round_ = rounds(size=SIZE)
    honest = round_.add(uploads("default"))
    sum_, own = frames(honest), lattice.draw_short(bytes(32), 0)
    zeros = [np.zeros(len(each), dtype=np.uint64) for each in sum_.residues]
    context = bound_to(round_.terms, round_.key)
    added = lattice.encrypt(zeros, own, context=context, plain_modulus=2**47)
    residues = [a + narrow(b) for a, b in zip(sum_.residues, added, strict=True)]
    secret = sum_.secret + own.astype(np.uint16)
    opened = round_.open(replace(sum_, residues=residues, secret=secret).bytes())
    np.testing.assert_array_equal(opened.mean, round_.open(honest).mean)


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
    with pytest.raises((Tampered, Malformed)):
        round_.with_terms(**changes).open(data)
    if "size" not in changes:  # which says how long a body is
        assert_tampered(round_.with_terms(**changes), data)
    if "run" in changes:
        assert_tampered(round_, data)


@pytest.mark.parametrize("name", ALL)
def test_another_key(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    data = round_.add(uploads(name))
    fresh = round_.cipher.generate()
    assert_tampered(replace(round_, key=fresh), data)
    for part in ("lattice", "tag") if name == "ckks" else ():
        mixture = {"lattice": round_.key.lattice, "tag": round_.key.tag, part: getattr(fresh, part)}
        key = type(fresh)(digest=fresh.digest, **mixture)
        assert_tampered(replace(round_, key=key), data)


@pytest.mark.parametrize("name", ALL)
def test_a_client_with_another_key(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    stranger = replace(round_, key=round_.cipher.generate())
    added = {**uploads(name), "c": stranger.encrypt(VECTORS[2], client="c")}
    assert_tampered(round_, round_.add(added))


@pytest.mark.parametrize("name", EXACT)
def test_a_mask_that_does_not_cancel(rounds, uploads, name):
    round_ = rounds(name, size=SIZE)
    mask = np.zeros(DEGREE, dtype=np.uint16)
    mask[4095] = 1
    added = {**uploads(name), "c": round_.encrypt(VECTORS[2], client="c", mask=mask)}
    assert_tampered(round_, round_.add(added))


def vectors(round_, data: bytes) -> list:
    """The TenSEAL vectors of an upload or a sum, without a key."""
    backend = round_.cipher._backend
    _, body = read_header(data)
    chunks = round_.cipher._codec.length(SIZE) // documented.SLOTS
    messages = documented._messages(body, chunks=chunks, scale=backend._scale)
    return [ts.ckks_vector_from(backend._fits.context(), each) for each in messages]


def stated(round_, clients: str, chunks: list) -> bytes:
    header = Header(
        kind="sum", digest=round_.cipher.digest, terms=round_.terms, clients=tuple(clients)
    )
    return header.to_bytes() + b"".join(documented._framed(chunks))


@pytest.mark.parametrize("change", [2**-17, 1])
@pytest.mark.parametrize("place", [0, 1000, 2041, 2042, 2043, 2044])
def test_a_number_that_the_server_adds_to_a_documented_vector(rounds, uploads, change, place):
    """Values, weight and identity; what it adds to the nonce of one chunk is noticed as well."""
    round_ = rounds("ckks", size=SIZE)
    chunks = vectors(round_, round_.add(uploads("ckks")))
    assert round_.open(stated(round_, "abc", chunks)).clients == ("a", "b", "c")
    added = [0] * documented.SLOTS
    added[place] = change
    assert_tampered(round_, stated(round_, "abc", [chunks[0] + added, *chunks[1:]]))


def test_other_clients_in_another_chunk_of_documented_vectors(rounds, uploads):
    round_ = rounds("ckks", size=SIZE)
    a, b, c = (vectors(round_, upload) for upload in uploads("ckks").values())
    chunks = [x + y for x, y in zip(a, b, strict=True)]
    assert round_.open(stated(round_, "ab", chunks)).clients == ("a", "b")
    chunks[1] = a[1] + c[1]
    assert_tampered(round_, stated(round_, "ab", chunks))


def test_a_first_upload_to_which_nothing_could_be_added(rounds):
    """Its message states our scale, the ciphertext in it has another: the first is refused too."""
    round_ = rounds("ckks")
    context = documented._context(2.0**40)
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
    sum_ = frames(round_.add(uploads("default")))
    added = np.zeros(DEGREE, dtype=np.uint64)
    added[place] = change
    sum_.residues[1] = narrow(add(widen(sum_.residues[1]), lift(added, 2**47), modulus=MODULUS))
    if place >= 4094 and change % TAG_MODULUS == 0:
        # A tag counts modulo P: this changes no value, and may be let through.
        np.testing.assert_array_equal(
            round_.open(sum_.bytes()).mean,
            round_.open(round_.add(uploads("default"))).mean,
        )
        return
    assert_tampered(round_, sum_.bytes())


def test_a_flipped_bit_is_noticed_or_lies_within_the_noise(rounds):
    """A sample over residues and secrets, and all nonces of a small sum; `test_fuzz` has more.

    A ciphertext carries noise, and a change no larger than what is left of its bound q/2t = 2^12
    is noise too: decryption is the same to the last bit. One bit in seven of what is sent of a
    residue is like that.
    """
    round_ = rounds(size=5000)
    data = round_.add({c: round_.encrypt(np.ones(5000), client=c) for c in "ab"})
    honest = round_.open(data)
    secret = len(data) - SECRET_BYTES
    nonces = secret - 2 * NONCE_BYTES
    rng = np.random.default_rng(0)
    unnoticed = 0
    residues = rng.integers(nonces - 17_000, nonces, 500)
    secrets = rng.integers(secret, len(data), 50)
    for place in [*residues, *range(nonces, secret), *secrets]:
        altered = bytearray(data)
        altered[place] ^= 1 << int(rng.integers(8))
        try:
            opened = round_.open(bytes(altered))
        except (Tampered, Malformed):
            continue
        unnoticed += 1
        assert place < nonces
        assert (opened.weight, opened.clients) == (honest.weight, honest.clients)
        np.testing.assert_array_equal(opened.mean, honest.mean)
    assert 0.08 < unnoticed / 500 < 0.25


@pytest.mark.parametrize("byte", [0, 255])
def test_any_bytes_are_residues_and_open_to_nothing(rounds, uploads, byte):
    """There are none to refuse: what was never encrypted is found by its tags."""
    round_ = rounds(size=SIZE)
    upload = frames(uploads("default")["a"])
    wild = [np.full(len(each), byte * (2**56 // 255), dtype=np.uint64) for each in upload.residues]
    adder = round_.cipher.adder(round_.terms)
    adder.add(uploads("default")["b"], client="b")
    adder.add(replace(upload, residues=wild).bytes(), client="a")
    assert_tampered(round_, adder.to_bytes())
    assert_tampered(round_, replace(upload, residues=wild).bytes("a"))


@pytest.mark.parametrize("cut", [1, 7, 16, 5632])
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
