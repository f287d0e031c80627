"""The clear header: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption import EncryptionError, Header, Malformed, Terms, read_header

TERMS = Terms(run="run", round=3, size=10, clamp=0.5)
HEADER = Header(kind="sum", digest=bytes(16), terms=TERMS, clients=("a", "b"))

names = st.text(min_size=1, max_size=60).filter(str.isprintable)
terms = st.builds(
    Terms,
    run=names,
    round=st.integers(0, 2**32 - 1),
    size=st.integers(1, 2**40),
    clamp=st.floats(1e-30, 1e30),
)


@given(terms, st.sets(names, min_size=1, max_size=5), st.binary(min_size=16, max_size=16))
def test_a_header_is_read_as_it_was_written(terms, clients, digest):
    header = Header(kind="sum", digest=digest, terms=terms, clients=tuple(sorted(clients)))
    found, body = read_header(header.to_bytes() + b"body")
    assert (found, bytes(body)) == (header, b"body")


def test_every_bit_of_a_header_matters():
    data = HEADER.to_bytes()
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Malformed, match="no header of an encrypted vector"):
            read_header(bytes(altered) + bytes(400))


def test_every_truncation_of_a_header_is_noticed():
    data = HEADER.to_bytes()
    for length in range(len(data)):
        with pytest.raises(Malformed):
            read_header(data[:length])


def checked(text: bytes) -> bytes:
    return text + hashlib.sha256(text).digest()[:8]


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (replace(HEADER, clients=()), "clients are missing"),
        (replace(HEADER, clients=("b", "a")), "not in order"),
        (replace(HEADER, clients=("a", "a")), "there twice"),
        (replace(HEADER, kind="upload"), "an upload of 2 clients"),
        (replace(HEADER, clients=("a\n",)), "printable characters"),
        (replace(HEADER, clients=("",)), "printable characters"),
    ],
)
def test_a_header_that_nobody_writes_is_refused_whatever_its_check_value(header, complaint):
    with pytest.raises(Malformed, match=complaint):
        read_header(header.to_bytes())


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (0, b"PRVX", "it starts with"),
        (4, b"\x02", "it starts with 50525645 2"),
        (5, b"\x02", "no header"),
    ],
)
def test_other_versions_and_kinds_are_refused(place, value, complaint):
    text = bytearray(HEADER.to_bytes()[:-8])
    text[place : place + len(value)] = value
    with pytest.raises(Malformed, match=complaint):
        read_header(checked(bytes(text)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", ""),
        ("run", "x" * 256),
        ("run", "a\nb"),
        ("run", "\ud800"),
        ("round", -1),
        ("round", 2**32),
        ("size", 0),
        ("size", 2**40 + 1),
        ("clamp", 0.0),
        ("clamp", -1.0),
        ("clamp", 1e31),
        ("clamp", math.nan),
        ("clamp", math.inf),
    ],
)
def test_terms_out_of_range_are_named(field, value):
    with pytest.raises(EncryptionError, match=f"{field} = .*allowed"):
        replace(TERMS, **{field: value})


@given(terms, terms)
def test_terms_that_differ_bind_tags_to_different_bytes(one, other):
    assert (one == other) == (one.to_bytes() == other.to_bytes())
