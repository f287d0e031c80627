"""A server that adds up uploads as it likes, by integers of its choice, and calls it a sum.

Tags are linear: those of u + 5 (u - v) + w fit its values. What holds is that a silo uploads once
for what all have agreed on, and that each upload carries a secret number of its client, so only
each of the clients once adds up to what the names in the header stand for.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
from flwr.app import RecordDict

from privet.client.keyring import secret_of
from privet.privacy.encryption import Terms, documented, read_header
from privet.privacy.encryption.backend import DEGREE, MODULUS
from privet.privacy.encryption.documented import SLOTS
from privet.privacy.encryption.header import Header
from privet.privacy.encryption.residues import pack, pack_secret, read_frames
from privet.wire import TrainReply
from sums_under_attack import Answers, MaliciousServer, job, malicious_server, refusals

SETTINGS: dict[str, dict[str, Any]] = {
    "bfv": {"encryption__pairwise_masks": False},
    "ckks": {"encryption__scheme": "ckks"},
}
Key = tuple[int, str]
"""The round and the silo of an upload."""
Coefficients = dict[Key, int]


@pytest.fixture(params=SETTINGS)
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MaliciousServer]:
    """Four silos that have the key of epoch 1; they count alike."""
    with malicious_server(tmp_path, experiment=job(**SETTINGS[request.param])) as made:
        made.distribute(1)
        yield made


def upload_of(content: RecordDict) -> bytes:
    sealed = TrainReply.from_records(content).sealed
    assert sealed is not None
    return sealed.upload


def of_round(round_: int, uploads: Answers) -> dict[Key, bytes]:
    return {(round_, name): upload_of(content) for name, content in uploads.items()}


def combined(
    server: MaliciousServer,
    terms: Terms,
    uploads: Mapping[Any, bytes],
    coefficients: Mapping[Any, int],
    claimed: str,
) -> bytes:
    """Of these uploads, as often as these integers say, as a sum of the silos that are claimed."""
    parts = [(read_header(uploads[key])[1], times) for key, times in coefficients.items()]
    scheme = server.cipher.facts.scheme
    add: Callable[..., bytes] = _ciphertexts if scheme == "ckks" else _residues
    head = Header(kind="sum", digest=server.cipher.digest, terms=terms, clients=tuple(claimed))
    return head.to_bytes() + add(server, parts, len(claimed))


def _ciphertexts(
    server: MaliciousServer, parts: list[tuple[memoryview, int]], _clients: int
) -> bytes:
    backend: Any = server.cipher._backend
    chunks = server.cipher._codec.length(server.first.size) // SLOTS

    def vectors(body: memoryview) -> list[Any]:
        messages = documented._messages(body, chunks=chunks, scale=backend._scale)
        return [ts.ckks_vector_from(backend._fits.context(), each) for each in messages]

    scaled = [[_times(each, k) for each in vectors(body)] for body, k in parts if k]
    totals = [reduce(lambda a, b: a + b, column) for column in zip(*scaled, strict=True)]
    return b"".join(documented._framed(totals))


def _times(vector: Any, times: int) -> Any:
    """By doubling: TenSEAL multiplies by a number only under another scale."""
    if times < 0:
        return _times(-vector, -times)
    half = vector if times == 1 else _times(vector + vector, times // 2)
    return half if times == 1 or times % 2 == 0 else half + vector


def _residues(server: MaliciousServer, parts: list[tuple[memoryview, int]], clients: int) -> bytes:
    length = server.cipher._codec.length(server.first.size)
    totals = np.zeros(length, dtype=np.uint64)
    secret, nonces = np.zeros(DEGREE, dtype=np.int64), []
    for body, times in parts:
        frames = read_frames(body, length=length, clients=1)
        totals += np.concatenate(list(frames.chunks())) * np.uint64(times % 2**64)
        secret += times % 2**11 * frames.secret.astype(np.int64)
        nonces += max(times, 0) % 100 * list(frames.nonces)
    # As many as there are names, or the length gives it away.
    nonces = [*nonces, *(bytes(16) for _ in range(clients))][:clients]
    return b"".join([pack(totals), *nonces, pack_secret((secret % 2**11).astype(np.uint16))])


def test_the_honest_combination_opens(server: MaliciousServer) -> None:
    """Else the rest of this file would show nothing."""
    agreed = server.agree(1)
    answers, terms = server.train(agreed), server.terms(agreed)
    uploads = of_round(1, answers)
    total = combined(server, terms, uploads, dict.fromkeys(uploads, 1), "abcd")
    assert total == server.total(agreed, answers)
    assert not refusals(server.confirm(agreed, total, server.names))


CASES: list[tuple[dict[str, int], str]] = [
    ({"a": 6, "b": -5, "c": 1}, "ac"),
    ({"a": 6, "b": -5, "c": 1}, "ab"),
    ({"a": 2, "b": 1}, "abc"),
    ({"a": 2}, "ab"),
    ({"a": 2, "b": 2}, "abcd"),
    ({"a": 3, "b": -1, "c": 1}, "abc"),
    ({"a": 1, "b": 1, "c": 1, "d": -1}, "ab"),
    ({"a": 2, "b": 1, "c": 1, "d": -1}, "abc"),
    ({"a": -1, "b": -1, "c": -1}, "abc"),
    ({"a": 2**20 + 1, "b": -(2**20), "c": 1}, "ac"),
    ({"a": MODULUS + 2, "b": -1, "c": 1}, "ac"),
    ({"a": 2**56 + 2, "b": -1, "c": 1}, "ac"),
    ({"a": 1, "b": 1}, "abc"),
    ({"a": 1, "b": 1, "c": 1}, "ab"),
    ({"a": 1, "b": 1, "c": 1}, "abd"),
]


def test_no_other_combination_of_a_round_opens(server: MaliciousServer) -> None:
    """Coefficients that cancel, negative and large ones; twice one and another dropped."""
    agreed = server.agree(1)
    uploads, terms = of_round(1, server.train(agreed)), server.terms(agreed)
    keys = list(uploads)
    chance = random.Random(3)
    cases = [({(1, name): k for name, k in each.items()}, claim) for each, claim in CASES]
    for claim in ("ab", "abc", "abcd"):
        for _ in range(8):
            some = [chance.randint(-9, 9) for _ in keys[1:]]
            # Such that the count of clients fits.
            cases.append((dict(zip(keys, [len(claim) - sum(some), *some], strict=True)), claim))
    for coefficients, claim in cases:
        honest = {(1, name): 1 for name in claim}
        if {key: k for key, k in coefficients.items() if k} != honest:
            total = combined(server, terms, uploads, coefficients, claim)
            assert server.opened("d", total) is None, (coefficients, claim)


@pytest.mark.parametrize(("coefficients", "claim"), [CASES[0], CASES[2], CASES[9]])
def test_a_silo_that_is_asked_to_open_a_combination_ends_its_key(
    server: MaliciousServer, coefficients: dict[str, int], claim: str
) -> None:
    agreed = server.agree(1)
    uploads, terms = of_round(1, server.train(agreed)), server.terms(agreed)
    keyed = {(1, name): k for name, k in coefficients.items()}
    total = combined(server, terms, uploads, keyed, claim)
    assert set(refusals(server.confirm(agreed, total, "a"))) == {"a"}
    assert server.score.opened == []
    assert server.score.spoilt == [("a", 1)]


def test_uploads_of_two_rounds_are_not_combined(server: MaliciousServer) -> None:
    """From one model and under one key, and of rounds that nobody was told the sum of."""
    uploads, labels = {}, []
    for round_ in (1, 2):
        agreed = server.agree(round_)
        uploads |= of_round(round_, server.train(agreed))
        labels.append(server.terms(agreed))
    combinations: list[Coefficients] = [
        {(1, "a"): 6, (2, "a"): -5, (1, "b"): 1},
        {(1, "a"): 1, (2, "b"): 1},
        {(1, "a"): 1, (1, "b"): 1, (2, "a"): 1, (2, "b"): -1},
        {(2, "a"): 2, (1, "a"): -1, (2, "b"): 1},
        {(1, "a"): 2, (1, "b"): 2, (2, "a"): -1, (2, "b"): -1},
    ]
    for coefficients, terms in itertools.product(combinations, labels):
        total = combined(server, terms, uploads, coefficients, "ab")
        assert server.opened("d", total) is None, coefficients


def test_uploads_of_two_epochs_are_not_combined(server: MaliciousServer) -> None:
    uploads, labels, keys = {}, [], []
    for epoch in (1, 2):
        if epoch > 1:
            server.distribute(epoch)
        agreed = server.agree(epoch)
        uploads |= of_round(epoch, server.train(agreed))
        labels.append(server.terms(agreed))
        keys.append(secret_of(server.ring("d").key(epoch)))
    combinations: list[Coefficients] = [
        {(1, "a"): 6, (2, "a"): -5, (1, "b"): 1},
        {(1, "a"): 1, (2, "b"): 1},
        {(2, "a"): 6, (1, "a"): -5, (2, "b"): 1},
    ]
    for coefficients, terms in itertools.product(combinations, labels):
        total = combined(server, terms, uploads, coefficients, "ab")
        # With the key that silos have deleted, too.
        for key in keys:
            assert server.opened("d", total, key=key) is None, coefficients


def test_two_uploads_of_one_silo_would_combine_without_nonces(server: MaliciousServer) -> None:
    """Why it gives no second one with CKKS; with BFV each nonce is taken out once."""
    agreed = server.agree(1)
    terms, key = server.terms(agreed), secret_of(server.ring("d").key(1))
    values = {"first": ("a", 0.3), "second": ("a", 0.2), "other": ("b", 0.0)}
    uploads = {
        name: server.cipher.encrypt(
            np.full(terms.size, value),
            key=key,
            terms=terms,
            weight=1.0,
            client=client,
            rng=np.random.default_rng(0),
        ).data
        for name, (client, value) in values.items()
    }
    total = combined(server, terms, uploads, {"first": 6, "second": -5, "other": 1}, "ab")
    opened = server.opened("d", total)
    if server.cipher.facts.scheme == "bfv":
        assert opened is None
    else:
        assert opened == pytest.approx((0.3 + 5 * 0.1) / 2, abs=1e-3)


def test_a_silo_uploads_once_for_what_was_agreed_on(server: MaliciousServer) -> None:
    """Two uploads of one silo under the same tags would combine: it gives no second one."""
    agreed = server.agree(1)
    server.train(agreed)
    assert set(refusals(server.train(agreed))) == set(server.names)
    assert set(refusals(server.advert(1))) == set(server.names)
    shares = server.step("query.share", 1, server.names, messages=agreed.adverts)
    assert set(refusals(shares)) == set(server.names)
    assert len(server.score.seals) == len(server.names)


@pytest.mark.parametrize("scheme", SETTINGS)
def test_a_silo_that_counts_less_is_not_added_more_often(tmp_path: Path, scheme: str) -> None:
    """Weights are in the uploads: twice the half of one is not the whole of another."""
    with malicious_server(
        tmp_path, experiment=job(**SETTINGS[scheme], federation__partition="linear")
    ) as server:
        server.distribute(1)
        agreed = server.agree(1)
        uploads, terms = of_round(1, server.train(agreed)), server.terms(agreed)
        weights = {each["silo"]: each["weight"] for each in server.score.seals}
        assert weights["b"] == 2 * weights["a"]
        assert weights["d"] == 4 * weights["a"]
        for coefficients, claim in (({"a": 2}, "ab"), ({"a": 4}, "d"), ({"a": 2, "b": 1}, "abc")):
            keyed = {(1, name): k for name, k in coefficients.items()}
            total = combined(server, terms, uploads, keyed, claim)
            assert server.opened("d", total) is None, (coefficients, claim)
