"""Every parser, fed with what a hostile relay or a bad disk could send."""

from __future__ import annotations

import contextlib
import json
import random

import pytest

from privet.privacy.encryption.keys import (
    KeyFileError,
    MessageError,
    RosterError,
    RunKey,
    Secret,
    gather,
    load_roster,
    make_offer,
    read_offer,
    read_statement,
    sign_upload,
    verify_upload,
    wrap,
)

CASES = pytest.mark.parametrize("cases", [500, pytest.param(20_000, marks=pytest.mark.slow)])
PARAMETERS = bytes(32)


@pytest.fixture
def others(federation, build):
    """The same silos in an older epoch and in another run: good messages in the wrong place."""
    return [
        build(identities=federation.identities, epoch=0),
        build(identities=federation.identities, run="run-0"),
    ]


@CASES
def test_offers(federation, others, fuzz, cases):
    elsewhere = [other.messages["bob"] for other in others]
    fuzz(
        federation.messages["bob"],
        elsewhere,
        lambda message: read_offer(message, session=federation.session),
        error=MessageError,
        cases=cases,
    )


@CASES
def test_sets_of_offers(federation, others, fuzz, cases):
    _, again = make_offer(
        session=federation.session, name="ada", identity=federation.identities["ada"]
    )
    fuzz(
        federation.messages["bob"],
        [again, federation.messages["ada"], *(other.messages["bob"] for other in others)],
        lambda message: gather([federation.messages["ada"], message], session=federation.session),
        error=MessageError,
        cases=cases // 2,
    )


@CASES
def test_wrapped_keys(federation, others, fuzz, cases):
    messages = federation.wrapped()
    fuzz(
        messages["bob"],
        [messages["cleo"], *(other.wrapped()["bob"] for other in others)],
        lambda message: RunKey.unwrapped(
            message, offers=federation.offers, name="bob", agreement=federation.agreements["bob"]
        ),
        error=MessageError,
        cases=cases,
    )


def _statement(federation, *, name="bob", round=1, payload=b"ciphertext" * 10):
    return sign_upload(
        payload,
        session=federation.session,
        name=name,
        identity=federation.identities[name],
        round=round,
        parameters=PARAMETERS,
    )


@CASES
def test_statements(federation, others, fuzz, cases):
    elsewhere = [_statement(other) for other in others]
    fuzz(
        _statement(federation),
        [_statement(federation, round=2), *elsewhere],
        lambda message: read_statement(
            message, session=federation.session, round=1, parameters=PARAMETERS
        ),
        error=MessageError,
        cases=cases,
    )


@CASES
def test_uploads(federation, fuzz, cases):
    statement = _statement(federation)
    fuzz(
        b"ciphertext" * 10,
        [b"ciphertexT" * 10],
        lambda payload: verify_upload(
            statement, payload, session=federation.session, round=1, parameters=PARAMETERS
        ),
        error=MessageError,
        cases=cases,
    )


@CASES
def test_key_files(federation, others, fuzz, cases, tmp_path):
    path = tmp_path / "key"

    def content(owner):
        owner.key.save(path)
        return path.read_bytes()

    def load(message):
        path.write_bytes(message)
        return RunKey.load(path, session=federation.session)

    elsewhere = [content(other) for other in others]
    fuzz(content(federation), elsewhere, load, error=KeyFileError, cases=cases)


@CASES
@pytest.mark.parametrize("kind", ["toml", "json"])
def test_rosters(federation, damage, kind, cases, tmp_path):
    # A roster is not signed: what is changed is refused, or is another roster, or (white space)
    # says the same.
    members = [(member.name, member.identity) for member in federation.session.roster.members]
    toml = "version = 1\n" + "".join(
        f'[[silos]]\nname = "{name}"\nidentity = "{identity}"\n' for name, identity in members
    )
    silos = [{"name": name, "identity": identity} for name, identity in members]
    text = toml if kind == "toml" else json.dumps({"version": 1, "silos": silos})
    path, rng = tmp_path / f"roster.{kind}", random.Random(cases)
    others = [text.upper().encode(), text[::-1].encode()]
    refusals = []
    for _ in range(cases):
        path.write_bytes(damage(text.encode(), others, rng))
        try:
            roster = load_roster(path)
        except RosterError as error:
            refusals.append(str(error))
        else:
            same = roster.members == federation.session.roster.members
            assert same == (roster.digest == federation.session.roster.digest)
    assert len(refusals) > cases / 2
    assert not any("\n" in text for text in refusals)


@CASES
def test_a_silo_that_signs_rubbish_is_refused_like_a_relay(federation, damage, cases):
    # The signature is right, so the parsers behind it have to cope; what they take is well formed.
    identity, rng = federation.identities["ada"], random.Random(cases)
    reads = {
        federation.messages["ada"]: lambda message: read_offer(message, session=federation.session),
        _statement(federation, name="ada"): lambda message: read_statement(
            message, session=federation.session, round=1, parameters=PARAMETERS
        ),
        federation.wrapped()["bob"]: lambda message: RunKey.unwrapped(
            message, offers=federation.offers, name="bob", agreement=federation.agreements["bob"]
        ),
    }
    for message, read in reads.items():
        for _ in range(cases // 3):
            body = damage(message[:-64], [other[:-64] for other in reads], rng)
            with contextlib.suppress(MessageError):
                read(body + bytes.fromhex(identity.sign(body)))


@CASES
def test_an_elected_silo_that_wraps_rubbish_is_refused_like_a_relay(federation, damage, cases):
    name, rng = federation.offers.elected, random.Random(cases)
    own = {"identity": federation.identities[name], "agreement": federation.agreements[name]}
    inside = federation.key._secret().reveal()
    for _ in range(cases // 3):
        made = Secret(damage(inside, [inside[::-1]], rng))
        message = wrap(made, offers=federation.offers, name=name, **own)["bob"]
        with contextlib.suppress(MessageError):
            agreement = federation.agreements["bob"]
            key = RunKey.unwrapped(
                message, offers=federation.offers, name="bob", agreement=agreement
            )
            assert key.members == federation.key.members
