"""Statements about uploads: to the server before it adds, to the silos afterwards."""

from __future__ import annotations

import pytest

from privet.privacy.encryption.keys import (
    KeysError,
    MessageError,
    RosterError,
    sign_upload,
    verify_upload,
)

PARAMETERS = bytes(range(32))


def signed(federation, name="bob", payload=b"ciphertext", **changes):
    arguments = {"session": federation.session, "round": 3, "parameters": PARAMETERS} | changes
    return sign_upload(payload, name=name, identity=federation.identities[name], **arguments)


def verified(federation, statement, payload=b"ciphertext", **changes):
    arguments = {"session": federation.session, "round": 3, "parameters": PARAMETERS} | changes
    return verify_upload(statement, payload, **arguments)


def test_the_server_learns_who_sent_exactly_these_bytes(federation):
    upload = verified(federation, signed(federation))
    assert (upload.name, upload.round, upload.size) == ("bob", 3, 10)
    assert verified(federation, signed(federation), memoryview(b"ciphertext")) == upload


@pytest.mark.parametrize("payload", [b"", b"ciphertexT", b"ciphertext ", b"iphertext"])
def test_other_bytes_are_refused(federation, payload):
    with pytest.raises(MessageError, match="not what silo 'bob' signed"):
        verified(federation, signed(federation), payload)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"round": 4}, "signed it for round 3, not 4"),
        ({"parameters": bytes(32)}, "works with other parameters"),
    ],
)
def test_a_statement_for_another_round_or_parameters_is_refused(federation, changes, problem):
    with pytest.raises(MessageError, match=problem):
        verified(federation, signed(federation), **changes)


def test_a_statement_of_another_session_is_a_replay(federation, build):
    for changes in ({"epoch": 2}, {"run": "run-2"}):
        other = build(identities=federation.identities, **changes)
        with pytest.raises(MessageError, match="it is from"):
            verified(federation, signed(other))


def test_nobody_signs_for_another(federation):
    with pytest.raises(RosterError, match="another identity key for silo 'bob'"):
        sign_upload(
            b"",
            session=federation.session,
            name="bob",
            identity=federation.identities["ada"],
            round=3,
            parameters=PARAMETERS,
        )
    renamed = signed(federation, "ada").replace(b"\x03ada", b"\x04cleo")
    with pytest.raises(MessageError, match="not that of silo 'cleo'"):
        verified(federation, renamed)


def test_settings_are_checked_before_signing(federation):
    with pytest.raises(KeysError, match="32 bytes, not 3"):
        signed(federation, parameters=b"abc")
    with pytest.raises(KeysError, match="round = -1 is outside"):
        signed(federation, round=-1)
