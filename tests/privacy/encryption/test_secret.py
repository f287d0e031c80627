"""A key keeps to itself."""

from __future__ import annotations

import copy
import pickle
import traceback
from dataclasses import replace

import numpy as np
import pytest

from privet.privacy.encryption import EncryptionError, SecretKey
from privet.privacy.encryption.keys.secret import _START


@pytest.fixture(params=["default", "ckks"])
def key(request, ciphers) -> SecretKey:
    return ciphers(request.param).generate()


def test_two_keys_have_nothing_in_common(ciphers):
    one, other = (ciphers("ckks").generate() for _ in range(2))
    assert one.tag != other.tag
    assert one.lattice != other.lattice
    assert one.name != other.name


def test_bytes_lead_back_to_the_key(key):
    again = SecretKey.from_bytes(key.to_bytes())
    assert (again.digest, again.lattice, again.tag) == (key.digest, key.lattice, key.tag)


def test_nothing_shows_the_secret(key):
    shown = f"{key!r} {key!s} {key.name} {vars(type(key)).get('__dict__', '')}"
    assert repr(key) == f"SecretKey(name='{key.name}')"
    lattice = [key.lattice[100:120].hex()] if key.lattice else []
    for part in (key.tag.hex(), repr(key.tag)[2:-1], *lattice):
        assert part not in shown
    assert not hasattr(key, "__dict__")


def test_no_secret_of_the_lattice_outlives_an_upload(ciphers):
    assert ciphers("default").generate().lattice == b""


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_is_not_copied_by_accident(key, take):
    with pytest.raises(TypeError, match="not copied or pickled"):
        take(key)


@pytest.mark.parametrize("cut", [0, 3, 56, 57, 100, -1])
def test_other_bytes_are_refused_without_showing_them(ciphers, cut):
    data = ciphers("ckks").generate().to_bytes()
    with pytest.raises(EncryptionError, match="no secret key") as caught:
        SecretKey.from_bytes(data[:cut])
    assert caught.value.__cause__ is None
    with pytest.raises(EncryptionError):
        SecretKey.from_bytes(b"X" + data[1:])


def test_a_key_of_another_cipher_is_refused(rounds, ciphers):
    wrong = ciphers("compact").generate()
    round_ = rounds("default")
    with pytest.raises(EncryptionError, match=f"key {wrong.name} was made for another cipher"):
        replace(round_, key=wrong).encrypt(np.zeros(10))
    with pytest.raises(EncryptionError, match="another cipher"):
        replace(round_, key=wrong).open(b"")


def test_a_lattice_key_that_does_not_parse_is_an_error_that_shows_nothing(rounds):
    round_ = rounds("ckks")
    data = round_.key.to_bytes()
    start = _START.size
    broken = SecretKey.from_bytes(data[: start + 40] + bytes(40) + data[start + 80 :])
    with pytest.raises(EncryptionError, match="does not belong to this cipher") as caught:
        replace(round_, key=broken).encrypt(np.zeros(10))
    text = "".join(traceback.format_exception(caught.value))
    assert broken.tag.hex() not in text
