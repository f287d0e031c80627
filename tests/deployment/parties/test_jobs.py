"""Orders: what an administrator signed is what a silo believes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privet.deployment.parties import NodeKey, Parties, Party
from privet.deployment.parties.orders import (
    LARGEST,
    Cancellation,
    Order,
    _facts,
    read_cancellation,
    read_order,
)
from privet.deployment.parties.requests import Denied
from privet.experiment import Experiment
from privet.privacy.ledger.keys import SiloKey

SOON = datetime.now(UTC) + timedelta(days=1)


def key(number: int) -> SiloKey:
    return SiloKey(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")))


ANA = Party(name="ana", role="admin", identity=key(2).public, expires=SOON)
NORTH = Party(
    name="north",
    role="silo",
    identity=key(3).public,
    node_key=NodeKey(ec.derive_private_key(5, ec.SECP384R1())).public,
    expires=SOON,
)
SERVER = Party(name="hub", role="server", identity="", expires=SOON)
PARTIES = Parties("lungs", 1, (SERVER, NORTH, ANA))
EXPERIMENT = Experiment.from_mapping({"task": "digits", "rounds": 3})


def order(requester: str = "ana", project: str = "lungs") -> Order:
    return Order.create(EXPERIMENT, project=project, requester=requester)


def test_an_order_of_an_administrator_is_believed_as_it_was_signed() -> None:
    made = order()
    read = read_order(made.signed(key(2)), PARTIES)
    assert read == made
    assert read.settings() == EXPERIMENT
    assert order().job != made.job


@pytest.mark.parametrize(
    ("requester", "number", "reason"),
    [
        ("north", 3, "no administrator"),
        ("hub", 3, "no administrator"),
        ("eve", 4, "no administrator"),
        ("ana", 3, "did not sign"),
        ("ana", 4, "did not sign"),
    ],
)
def test_an_order_of_anybody_else_is_refused(requester: str, number: int, reason: str) -> None:
    with pytest.raises(Denied, match=reason):
        read_order(order(requester).signed(key(number)), PARTIES)


def test_an_order_ends_with_its_makers_right_to_order() -> None:
    text = order().signed(key(2))
    for change, reason in (
        ({"revoked": True}, "revoked"),
        ({"expires": datetime.now(UTC)}, "expired"),
        ({"identity": key(9).public}, "did not sign"),
    ):
        with pytest.raises(Denied, match=reason):
            read_order(text, replace(PARTIES, members=(NORTH, replace(ANA, **change))))


def test_an_order_for_another_project_is_refused() -> None:
    with pytest.raises(Denied, match=r"project 'livers', not 'lungs'"):
        read_order(order(project="livers").signed(key(2)), PARTIES)


@given(st.data())
def test_an_order_with_a_byte_changed_is_refused_or_says_the_same(data: st.DataObject) -> None:
    made = order()
    text = made.signed(key(2))
    place = data.draw(st.integers(0, 10_000)) % len(text)
    changed = text[:place] + data.draw(st.characters()) + text[place + 1 :]
    try:
        assert read_order(changed, PARTIES) == made
    except Denied:
        assert changed != text


def test_nothing_travels_beside_an_order() -> None:
    whole = json.loads(order().signed(key(2)))
    with pytest.raises(Denied, match="malformed"):
        read_order(json.dumps({**whole, "more": 1}), PARTIES)


odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
odd |= st.dictionaries(st.text(), st.integers() | st.text())


@given(st.sampled_from(["project", "job", "requester", "at", "experiment", "more"]), odd)
def test_a_field_that_was_changed_makes_an_order_worthless(field: str, value: Any) -> None:
    whole = json.loads(order().signed(key(2)))
    if whole["order"].get(field) == value:
        return
    whole["order"][field] = value
    with pytest.raises(Denied):
        read_order(json.dumps(whole), PARTIES)


@given(st.sampled_from(["project", "job", "requester", "at", "experiment", "more"]), odd)
def test_an_administrators_own_nonsense_is_denied_or_an_order(field: str, value: Any) -> None:
    raw = {**asdict(order()), field: value}
    text = json.dumps({"order": raw, "signature": key(2).sign(_facts("order", raw))})
    try:
        read = read_order(text, PARTIES)
    except Denied:
        return
    assert field in ("at", "experiment")
    assert type(value) is type(getattr(read, field))


@given(
    st.text()
    | st.integers(1, 200_000).map(lambda n: "[" * n)
    | st.integers(1, 3000).map(lambda n: '{"order":{"a":' + "[" * n + "]" * n + '},"signature":""}')
    | odd.map(lambda value: json.dumps({"order": value, "signature": value}))
)
def test_whatever_comes_as_an_order_is_denied(text: str) -> None:
    with pytest.raises(Denied):
        read_order(text, PARTIES)


@pytest.mark.parametrize("job", ["0123456789AB", "0123456789a", "../../../etc", "01 23456789a", ""])
def test_a_job_is_named_by_twelve_digits_and_nothing_else(job: str) -> None:
    with pytest.raises(Denied, match="malformed"):
        read_order(replace(order(), job=job).signed(key(2)), PARTIES)


def test_an_order_has_at_most_a_million_characters() -> None:
    text = order().signed(key(2))
    read_order(text + " " * (LARGEST - len(text)), PARTIES)
    with pytest.raises(Denied, match="malformed"):
        read_order(text + " " * (LARGEST - len(text) + 1), PARTIES)


@pytest.mark.parametrize(
    ("requester", "number", "project", "reason"),
    [
        ("ana", 2, "lungs", None),
        ("ana", 2, "livers", "project 'livers'"),
        ("ana", 3, "lungs", "did not sign"),
        ("north", 3, "lungs", "no administrator"),
        ("hub", 3, "lungs", "no administrator"),
        ("eve", 4, "lungs", "no administrator"),
    ],
)
def test_only_an_administrator_cancels(
    requester: str, number: int, project: str, reason: str | None
) -> None:
    word = Cancellation(project=project, job="0" * 12, requester=requester, at=1.0)
    text = word.signed(key(number))
    if reason is None:
        assert read_cancellation(text, PARTIES) == word
        return
    with pytest.raises(Denied, match=reason):
        read_cancellation(text, PARTIES)


def test_an_order_is_no_cancel_and_a_cancel_no_order() -> None:
    made = order()
    facts = {key: getattr(made, key) for key in ("project", "job", "requester", "at")}
    signature = json.loads(made.signed(key(2)))["signature"]
    for text in (made.signed(key(2)), json.dumps({"cancel": facts, "signature": signature})):
        with pytest.raises(Denied):
            read_cancellation(text, PARTIES)
    word = Cancellation(**facts).signed(key(2))
    with pytest.raises(Denied):
        read_order(word, PARTIES)
    with pytest.raises(Denied):
        read_order(word.replace('"cancel"', '"order"'), PARTIES)
