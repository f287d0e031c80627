"""The encoding below all messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.privacy.encryption.keys import KeysError, MessageError
from privet.privacy.encryption.keys.roster import (
    LARGEST_NUMBER,
    Fields,
    check_numbers,
    counted,
    name_like,
    pack,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(st.binary(), st.integers(0, LARGEST_NUMBER), st.lists(NAMES, max_size=5))
def test_what_is_packed_is_read_back(blob, number, names):
    message = pack("privet test 1", blob, number, *counted(tuple(names)))
    fields = Fields(message, "privet test 1")
    assert (fields.blob(), fields.number(), fields.names()) == (blob, number, tuple(names))
    fields.end()


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_different_fields_have_different_messages(one, two):
    assert (pack("privet test 1", *one) == pack("privet test 1", *two)) == (one == two)


def read_all(message):
    fields = Fields(message, "privet test 1")
    found = fields.number(), fields.name(), fields.blob(size=2)
    fields.end()
    return found


GOOD = pack("privet test 1", 7, "ada", b"xy")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "something else"),
        (None, "something else"),
        (bytearray(GOOD), "something else"),
        (GOOD.replace(b" 1", b" 2"), "something else"),
        (GOOD[:-1], "too early"),
        (GOOD + b"\0", "follows its end"),
        (pack("privet test 1", b"\0" * 7, "ada", b"xy"), "7 bytes instead of 8"),
        (pack("privet test 1", b"\xff" * 8, "ada", b"xy"), "too large"),
        (pack("privet test 1", 7, "", b"xy"), "characters"),
        (pack("privet test 1", 7, "a\n", b"xy"), "characters"),
        (pack("privet test 1", 7, b"\xe4da", b"xy"), "characters"),
        (pack("privet test 1", 7, "ada", b"x"), "1 bytes instead of 2"),
    ],
)
def test_anything_else_is_refused(message, problem):
    assert read_all(GOOD) == (7, "ada", b"xy")
    with pytest.raises(MessageError, match=f"^test refused: .*{problem}"):
        read_all(message)


def test_a_list_that_claims_to_be_long_ends_with_the_message():
    with pytest.raises(MessageError, match="too early"):
        Fields(pack("privet test 1", LARGEST_NUMBER), "privet test 1").names()


def test_numbers_and_names_are_checked_where_they_come_in():
    check_numbers(a=0, b=LARGEST_NUMBER)
    with pytest.raises(KeysError, match="b = -1"):
        check_numbers(a=0, b=-1)
    assert name_like("Hospital-1.a_b")
    assert not any(map(name_like, ["", "-a", ".a", "a ", "a\n", "x" * 65, "ä"]))
