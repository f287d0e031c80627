"""Secrets stay out of everything that is shown, logged, copied or pickled."""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import json
import logging
import pickle
import pprint
import random
import traceback

import pytest

from privet.privacy.encryption.keys import (
    AgreementKey,
    RunKey,
    Secret,
    unwrap,
)


def spellings(secret: bytes) -> list[str]:
    """Ways in which eight bytes of `secret` would show up in a text."""
    found = []
    for start in range(0, len(secret) - 8, 5):
        piece = secret[start : start + 8]
        found += [piece.hex(), piece.hex().upper(), piece.hex(":"), repr(piece)[2:-1]]
        found += [piece.decode("latin-1"), str(int.from_bytes(piece, "big"))]
        # Base64 of a text that has the piece at any of three offsets, without its uncertain ends.
        for before in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.append(encode(bytes(before) + piece).decode()[4:-4])
    return found


@pytest.fixture
def secrets(federation):
    agreements = [key.secret().reveal() for key in federation.agreements.values()]
    key = federation.key
    return [key.container.reveal(), key.transport.reveal(), *agreements]


@pytest.fixture
def clean(secrets):
    needles = [needle for secret in secrets for needle in spellings(secret) if len(needle) >= 6]

    def check(text: str) -> None:
        for needle in needles:
            assert needle not in text, "a secret is shown"

    return check


def test_the_check_itself_finds_a_secret(secrets, clean):
    for shown in (secrets[1].hex(), repr(secrets[1]), base64.b64encode(secrets[2]).decode()):
        with pytest.raises(AssertionError, match="is shown"):
            clean(f"before {shown} after")


def test_nothing_shows_a_secret(federation, clean):
    shown = [
        federation.key,
        federation.key.container,
        federation.key.age,
        federation.key.id,
        federation.offers,
        federation.agreements,
        list(federation.agreements.values()),
        vars(federation),
    ]
    for value in shown:
        clean(repr(value))
        clean(str(value))
        clean(f"{value}")
        clean(pprint.pformat(value))
    assert repr(federation.key.transport) == "Secret(32 bytes)"


def test_secrets_are_not_copied_pickled_or_serialised(federation):
    for value in (federation.key.transport, federation.agreements["bob"], federation.key):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError):
                pickle.dumps(value, protocol)
        with pytest.raises(TypeError):
            copy.deepcopy(value)
        with pytest.raises(TypeError):
            json.dumps(value)
        with pytest.raises(TypeError):
            bytes(value)
    with pytest.raises(TypeError):
        copy.copy(federation.key.transport)
    with pytest.raises(TypeError):
        dataclasses.asdict(federation.key)
    with pytest.raises(TypeError):
        hash(federation.key.transport)


def test_secrets_compare_by_content():
    assert Secret(b"a") == Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    assert len(Secret.random(40)) == 40
    assert Secret.random() != Secret.random()
    key = AgreementKey.generate()
    assert AgreementKey.from_secret(key.secret()).public == key.public


def test_errors_and_logs_show_no_secret(federation, damage, clean, caplog, tmp_path):
    wrapped, path = federation.wrapped(), tmp_path / "key"
    federation.key.save(path)
    kept, rng = path.read_bytes(), random.Random(1)

    def load(message):
        path.write_bytes(message)
        RunKey.load(path, session=federation.session)

    def unwrapped(message):
        agreement = federation.agreements["bob"]
        unwrap(message, offers=federation.offers, name="bob", agreement=agreement)

    attempts = [(kept, load), (wrapped["bob"], unwrapped)]
    with caplog.at_level(logging.DEBUG):
        for message, read in attempts * 60:
            with contextlib.suppress(Exception):
                read(damage(message, [wrapped["cleo"]], rng))
            try:
                read(damage(message, [wrapped["cleo"]], rng))
            except Exception as error:
                clean("".join(traceback.format_exception(error)))
                clean(repr(error.args))
    clean(caplog.text)


def test_what_travels_and_what_may_be_published_holds_no_secret(federation, secrets):
    public = [*federation.wrapped().values(), *federation.messages.values()]
    for secret in secrets:
        for start in range(0, len(secret) - 8, 4):
            assert not any(secret[start : start + 8] in message for message in public)
