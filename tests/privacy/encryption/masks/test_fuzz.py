"""Parsers of masks, fed with what a hostile relay, a hostile silo or a bad disk could send."""

from __future__ import annotations

import contextlib
import logging
import random
import traceback

import pytest

from privet.privacy.encryption.keys import KeyFileError, KeysError, MessageError
from privet.privacy.encryption.masks import MaskRound
from privet.privacy.encryption.masks.shares import read_share
from privet.privacy.encryption.masks.statements import gather_adverts, read_advert, read_consent
from privet.privacy.encryption.masks.unmasking import read_reveal

CASES = pytest.mark.parametrize("cases", [500, pytest.param(20_000, marks=pytest.mark.slow)])


def damaged(message: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """`message` cut, lengthened, flipped or spliced, or one of `others`."""
    cut, other = rng.randrange(len(message) + 1), rng.choice(others)
    flipped = bytearray(message)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        flipped[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
    made = [
        rng.randbytes(rng.randrange(300)),
        message[:cut],
        message[cut:],
        message + rng.randbytes(rng.randrange(1, 80)),
        bytes(flipped),
        bytes(flipped),
        other,
        message[:cut] + other[cut:],
        other[:cut] + message[cut:],
        message[:cut] + b"\xff\xff\xff\xff" + message[cut + 4 :],
    ]
    return rng.choice(made)


def reject_all(message, others, read, *, cases, error=MessageError):
    read(message)
    rng = random.Random(len(message))
    for made in (damaged(message, others, rng) for _ in range(cases)):
        if made == message:
            continue
        try:
            read(made)
        except Exception as raised:
            if type(raised) is not error or "\n" in str(raised):
                raise
        else:
            raise AssertionError(f"accepted {made.hex()} for {message.hex()}")


@pytest.fixture
def others(group, build):
    """The same silos, in another round, in an older epoch, and in this round a second time."""
    return [
        build(identities=group.identities, **changes)
        for changes in ({"round": 2}, {"epoch": 0}, {})
    ]


@pytest.fixture
def adverts(group):
    return gather_adverts(group.adverts, plan=group.plan)


@CASES
def test_adverts(group, others, cases):
    # An advert of this round that was made in another attempt is a good one; it parts the silos
    # when they compare digests, and its own maker notices.
    elsewhere = [other.adverts[0] for other in others[:2]]
    reject_all(
        group.adverts[0],
        elsewhere,
        lambda message: read_advert(message, plan=group.plan),
        cases=cases,
    )


@CASES
def test_shares(group, others, cases):
    elsewhere = [other.encrypted_shares["silo-b"]["silo-a"] for other in others]
    cipher = _cipher(group)
    adverts = gather_adverts(group.adverts, plan=group.plan)
    reject_all(
        group.encrypted_shares["silo-b"]["silo-a"],
        [
            group.encrypted_shares["silo-c"]["silo-a"],
            group.encrypted_shares["silo-a"]["silo-b"],
            *elsewhere,
        ],
        lambda message: read_share(
            message, adverts=adverts, sender="silo-b", recipient="silo-a", cipher=cipher
        ),
        cases=cases,
    )


def _cipher(group):
    """The key for shares to silo-a, which is gone once it has masked: begin the round anew."""
    rounds = {
        name: MaskRound.begin(plan=group.plan, name=name, identity=key)
        for name, key in group.identities.items()
    }
    group.adverts[:] = [each.advert() for each in rounds.values()]
    cipher = rounds["silo-a"]._phase.cipher
    group.encrypted_shares = {name: each.share(group.adverts) for name, each in rounds.items()}
    return cipher


@CASES
def test_consents(group, adverts, others, cases):
    names = list(group.identities)
    elsewhere = [other.again()["silo-b"].consent(names) for other in others]
    message = group.again()["silo-b"].consent(names)
    reject_all(
        message, elsewhere, lambda message: read_consent(message, adverts=adverts), cases=cases
    )


@CASES
def test_reveals(group, adverts, others, cases):
    names = list(group.identities)
    elsewhere = [other.reveals(names)[1] for other in others]
    message = group.reveals(names)[1]
    reject_all(
        message, elsewhere, lambda message: read_reveal(message, adverts=adverts), cases=cases
    )


@CASES
def test_rounds_on_disk(group, others, cases, tmp_path):
    path, name = tmp_path / "masks", "silo-a"
    who = {"name": name, "identity": group.identities[name]}

    def content(owner):
        path.unlink(missing_ok=True)
        MaskRound.begin(plan=owner.plan, keep=path, **who)
        return path.read_bytes()

    def resume(message):
        path.write_bytes(message)
        return MaskRound.resume(session=group.plan.session, keep=path, **who)

    elsewhere = [content(others[1])]
    reject_all(content(group), elsewhere, resume, cases=cases // 2, error=KeyFileError)


@CASES
def test_a_silo_that_signs_rubbish_is_refused_like_a_relay(group, adverts, cases):
    names, rng = list(group.identities), random.Random(cases)
    identity = group.identities["silo-b"]
    reads = {
        group.adverts[1]: lambda message: read_advert(message, plan=group.plan),
        group.again()["silo-b"].consent(names): lambda message: read_consent(
            message, adverts=adverts
        ),
        group.reveals(names)[1]: lambda message: read_reveal(message, adverts=adverts),
    }
    for message, read in reads.items():
        for _ in range(cases // 3):
            body = damaged(message[:-64], [other[:-64] for other in reads], rng)
            with contextlib.suppress(MessageError):
                read(body + bytes.fromhex(identity.sign(body)))


def test_errors_logs_and_representations_show_no_share(group, caplog):
    names, rng = list(group.identities), random.Random(1)
    reveal = group.reveals(names)[1]
    cipher = _cipher(group)
    adverts = gather_adverts(group.adverts, plan=group.plan)
    phase = group.again()["silo-a"]._phase
    held = [share for each in phase.held.values() for share in (each.personal, each.pair)]
    secrets = [share.reveal() for share in held] + [cipher.secret().reveal()]
    shown = [repr(phase), str(phase), repr(phase.consent(names)), repr(group.rounds)]
    with caplog.at_level(logging.DEBUG):
        for message, read in [
            (reveal, lambda made: read_reveal(made, adverts=adverts)),
            (
                group.encrypted_shares["silo-b"]["silo-a"],
                lambda made: read_share(
                    made, adverts=adverts, sender="silo-b", recipient="silo-a", cipher=cipher
                ),
            ),
        ]:
            for _ in range(100):
                try:
                    read(damaged(message, [bytes(40)], rng))
                except KeysError as error:
                    shown.append("".join(traceback.format_exception(error)))
    text = "\n".join([*shown, caplog.text])
    for secret in secrets:
        for start in range(0, len(secret) - 8, 4):
            piece = secret[start : start + 8]
            spellings = (piece.hex(), piece.hex().upper(), repr(piece)[2:-1])
            assert not any(spelling in text for spelling in spellings)
            assert str(int.from_bytes(piece, "big")) not in text
