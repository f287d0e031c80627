"""Every parser, fed in a child process with random, cut, flipped, spliced and stretched bytes.

What is altered is refused with one of our own errors, or decrypts to exactly the honest result (a
change within a ciphertext's noise, or another spelling of the same compressed bytes).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import pytest

from privet.privacy.encryption import (
    EncryptionError,
    Malformed,
    SecretKey,
    Tampered,
    UploadRefused,
    read_header,
)
from privet.privacy.encryption.documented import fields

MANY = int(os.environ.get("PRIVET_FUZZ", "3000"))
CASES = pytest.mark.parametrize("cases", [1500, pytest.param(MANY, marks=pytest.mark.slow)])
CIPHERS = pytest.mark.parametrize("name", ["default", "compact", "ckks"])
SECONDS = 900


def altered(rng: random.Random, good: bytes, others: list[bytes]) -> bytes:
    """`good` after one to three of the things that happen to bytes; half of them near the start."""
    data = bytearray(good)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        length = max(1, len(data) if rng.random() < 0.5 else min(len(data), 150))
        place = rng.randrange(length)
        match rng.randrange(7):
            case 0:
                data = bytearray(rng.randbytes(rng.choice([0, 1, 20, 100, len(data)])))
            case 1:
                del data[place:]
            case 2:
                other = rng.choice(others)
                data[place:] = other[rng.choice([place, rng.randrange(len(other))]) :]
            case 3:
                data += rng.randbytes(rng.choice([1, 8, 64, 400]))
            case 4:
                data[place : place + 4] = rng.choice([bytes(4), b"\xff" * 4, b"\x00\x00\x00\x80"])
            case _:
                if data:
                    data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(data)


def survey(cases: int, good: bytes, others: list[bytes], look: Callable[[bytes], str]) -> dict:
    """How often `look` gave each of its answers."""
    rng, answers = random.Random(cases), {}
    for _ in range(cases):
        data = altered(rng, good, others)
        answer = look(data) if data != good else "same"
        answers[answer] = answers.get(answer, 0) + 1
    return answers


@pytest.fixture
def honest(rounds):
    """A round with an upload, a sum, and other messages to splice in."""

    def make(name: str):
        round_ = rounds(name, size=8500 if name == "default" else 10)
        x = np.random.default_rng(0).uniform(-0.5, 0.5, round_.terms.size)
        uploads = {client: round_.encrypt(x, client=client) for client in "ab"}
        earlier = round_.with_terms(round=2)
        others = [*uploads.values(), earlier.encrypt(x), earlier.add({"a": earlier.encrypt(x)})]
        return round_, uploads, others

    return make


@CIPHERS
@CASES
def test_uploads(honest, forked, name, cases):
    round_, uploads, others = honest(name)
    expected = round_.open(round_.add(uploads))

    def look(data: bytes) -> str:
        adder = round_.cipher.adder(round_.terms)
        adder.add(uploads["b"], client="b")
        before = adder.to_bytes()
        try:
            adder.add(data, client="a")
        except (Malformed, UploadRefused):
            return "refused" if adder.to_bytes() == before else "REFUSED BUT ADDED"
        try:
            opened = round_.open(adder.to_bytes())
        except Tampered:
            return "found out"
        return "harmless" if np.array_equal(opened.mean, expected.mean) else "ACCEPTED"

    def run():
        return survey(cases, uploads["a"], others, look)

    answers = forked(run, seconds=SECONDS)
    assert set(answers) <= {"refused", "found out", "harmless", "same"}, answers
    assert answers["refused"] > cases / 4
    assert answers["found out"] > 0


@CIPHERS
@CASES
def test_sums(honest, forked, name, cases):
    round_, uploads, others = honest(name)
    good = round_.add(uploads)
    expected = round_.open(good)

    def look(data: bytes) -> str:
        try:
            opened = round_.open(data)
        except (Malformed, Tampered) as error:
            return type(error).__name__
        near = np.allclose(opened.mean, expected.mean, atol=0 if name != "ckks" else 1e-5, rtol=0)
        return "harmless" if near and opened.clients == expected.clients else "ACCEPTED"

    answers = forked(lambda: survey(cases, good, others, look), seconds=SECONDS)
    assert set(answers) <= {"Malformed", "Tampered", "harmless", "same"}, answers
    assert min(answers["Malformed"], answers["Tampered"]) > 0


@CASES
def test_headers(honest, forked, cases):
    _, uploads, others = honest("compact")
    good = uploads["a"][:80]
    written = [read_header(data)[0] for data in others]

    def look(data: bytes) -> str:
        try:
            header, _ = read_header(data)
        except Malformed:
            return "refused"
        return "as written" if header in written else "ACCEPTED"

    answers = forked(lambda: survey(cases, good, others, look), seconds=SECONDS)
    assert set(answers) <= {"refused", "as written", "same"}, answers
    assert answers["refused"] > cases / 2


@pytest.mark.parametrize("name", ["default", "ckks"])
@CASES
def test_keys(honest, rounds, forked, name, cases):
    """Authenticated bytes only come here, but a fault should not take the process with it."""
    round_, _, others = honest(name)
    good = round_.key.to_bytes()

    def look(data: bytes) -> str:
        try:
            key = SecretKey.from_bytes(data)
            round_.cipher.encrypt(
                np.zeros(round_.terms.size),
                key=key,
                terms=round_.terms,
                weight=1.0,
                client="a",
                rng=np.random.default_rng(0),
            )
        except EncryptionError as error:
            shown = str(error).encode()
            return "refused" if good[30:50] not in shown and len(shown) < 100 else "SHOWN"
        return "some key"

    answers = forked(lambda: survey(cases, good, others, look), seconds=SECONDS)
    assert set(answers) <= {"refused", "some key", "same"}, answers
    assert answers["refused"] > cases / 4


@CASES
def test_protocol_buffers(forked, cases):
    good = bytes.fromhex("0a028010120a") + bytes(10) + bytes.fromhex("190000000000001043")

    def look(data: bytes) -> str:
        try:
            found = list(fields(data))
        except Malformed:
            return "refused"
        return "read" if len(found) <= len(data) else "INVENTED"

    answers = forked(lambda: survey(cases, good, [good], look), seconds=SECONDS)
    assert set(answers) <= {"refused", "read", "same"}
    assert min(answers["refused"], answers["read"]) > 0


@pytest.mark.parametrize(
    "craft",
    [
        lambda sizes, ciphertext, scale: ciphertext + scale,
        lambda sizes, ciphertext, scale: b"\x0a\x03\x81\xa0\x01" + ciphertext + scale,
        lambda sizes, ciphertext, scale: b"\x0a\x05\x80\x80\x80\x80\x08" + ciphertext + scale,
        lambda sizes, ciphertext, scale: b"\x0a\x03\x81\xa0\x01" + sizes + ciphertext + scale,
        lambda sizes, ciphertext, scale: sizes + b"\x0a\x03\x81\xa0\x01" + ciphertext + scale,
        lambda sizes, ciphertext, scale: sizes + ciphertext + ciphertext + scale,
        lambda sizes, ciphertext, scale: sizes + scale,
        lambda sizes, ciphertext, scale: sizes + ciphertext + scale + b"\x20\x01",
        lambda sizes, ciphertext, scale: sizes + ciphertext + b"\x19" + bytes(8),
        lambda sizes, ciphertext, scale: b"\x08\x80\x10" + ciphertext + scale,
    ],
)
def test_messages_that_crash_tenseal_do_not_reach_it(honest, forked, craft):
    """No sizes, too large ones, two; no ciphertext, two; an unknown field, another scale."""
    round_, uploads, _ = honest("ckks")
    header, body = read_header(uploads["a"])
    message = bytes(body[4:])
    sizes = message[:4]
    scale = message[-9:]
    ciphertext = message[4 : len(message) - len(scale)]
    crafted = craft(sizes, ciphertext, scale)
    data = header.to_bytes() + len(crafted).to_bytes(4, "little") + crafted

    def look():
        try:
            round_.cipher.adder(round_.terms).add(data, client="a")
        except Malformed as error:
            return str(error)
        return "ACCEPTED"

    assert forked(look, seconds=60).startswith("a vector has")
