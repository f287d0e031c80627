"""The signed list: what is written is read back, and nobody else can write one."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.deployment.parties import (
    NodeKey,
    Parties,
    PartiesError,
    Party,
    load_parties,
    read_parties,
)
from privet.deployment.parties.parties import signing_text
from privet.privacy.encryption.keys import RosterError
from privet.privacy.ledger.keys import SiloKey

LATER = datetime(2030, 1, 1, tzinfo=UTC)
KEY = SiloKey(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01"))
IDENTITIES = [
    SiloKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)).public
    for number in range(1, 9)
]
NODES = [NodeKey(ec.derive_private_key(number, ec.SECP384R1())).public for number in range(1, 9)]

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
moments = st.datetimes(
    min_value=datetime(2000, 1, 2),
    max_value=datetime(2200, 1, 1),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)


@st.composite
def lists(draw: st.DrawFn) -> Parties:
    unique = draw(st.lists(names, max_size=8, unique_by=str.casefold))
    members = []
    for place, name in enumerate(unique):
        role = draw(st.sampled_from(["silo", "admin"] if place else ["silo", "admin", "server"]))
        members.append(
            Party(
                name=name,
                role=role,
                identity="" if role == "server" else IDENTITIES[place],
                node_key=NODES[place] if role == "silo" else "",
                expires=draw(moments),
                revoked=draw(st.booleans()),
            )
        )
    return Parties(draw(names), draw(st.integers(1, 2**63 - 1)), tuple(members))


@given(lists())
def test_what_is_signed_is_read_back(parties: Parties) -> None:
    content = parties.signed(KEY)
    again = read_parties(content, project_key=KEY.public)
    assert again == parties
    assert again.signed(KEY) == content


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(lists(), st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(
    parties: Parties, data: st.DataObject
) -> None:
    content = bytearray(parties.signed(KEY))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    try:
        read = read_parties(bytes(content), project_key=KEY.public)
    except PartiesError:
        return
    assert read == parties


@given(lists(), st.data())
def test_a_part_of_a_list_is_refused(parties: Parties, data: st.DataObject) -> None:
    content = parties.signed(KEY)
    cut = data.draw(st.integers(0, len(content) - 2))
    with pytest.raises(PartiesError):
        read_parties(content[:cut], project_key=KEY.public)


@given(st.binary(max_size=300))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(PartiesError):
        read_parties(content, project_key=KEY.public)


def test_another_key_does_not_sign_for_the_project() -> None:
    other = SiloKey(Ed25519PrivateKey.generate())
    content = Parties("lungs", 1, ()).signed(other)
    with pytest.raises(PartiesError, match="not signed by the project's key"):
        read_parties(content, project_key=KEY.public)


@pytest.mark.parametrize("weak", ["0" * 64, "01" + "0" * 62, "ec" + "ff" * 30 + "7f"])
def test_a_project_key_that_anyone_signs_for_is_refused(weak: str) -> None:
    with pytest.raises(PartiesError, match="project_key is no key: anyone could sign for it"):
        read_parties(Parties("lungs", 1, ()).signed(KEY), project_key=weak)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"signed": ' + b'{"a": ' * 100_000,
        b'{"signed": {}, "signed": {}, "signature": ""}',
        b'{"signed": {"version": ' + b"9" * 5000 + b'}, "signature": ""}',
        b'{"signed": {"version": 1e400}, "signature": ""}',
        b'{"signed": {"version": NaN}, "signature": ""}',
        b'{"signed": {"project": "\\ud800"}, "signature": ""}',
        b'{"signed": [], "signature": ""}',
        b'{"signed": {}, "signature": 7}',
        b'{"signed": {}, "signature": "zz"}',
        b'{"signed": {}, "signature": "", "more": 1}',
        b'{"signed": {}}',
        b"null",
        b"\xff\xfe",
        b"",
        b" " * 1_000_001,
    ],
)
def test_hostile_content_is_refused(content: bytes) -> None:
    with pytest.raises(PartiesError) as caught:
        read_parties(content, project_key=KEY.public)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def _sealed(table: Any) -> bytes:
    return json.dumps({"signed": table, "signature": KEY.sign(signing_text(table))}).encode()


def _row(**changes: Any) -> dict[str, Any]:
    row = {
        "name": "north",
        "role": "silo",
        "identity": IDENTITIES[0],
        "node_key": NODES[0],
        "expires": "2030-01-01T00:00:00+00:00",
        "revoked": False,
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


def _list(**changes: Any) -> dict[str, Any]:
    return {"project": "lungs", "version": 1, "members": [_row()], **changes}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_list(version=0), "version = 0 is outside 1 to"),
        (_list(version=True), "'version' is of the wrong kind"),
        (_list(version="1"), "'version' is of the wrong kind"),
        (_list(project="../lungs"), "project = '../lungs' is no name"),
        (_list(members={}), "'members' is of the wrong kind"),
        (_list(members=[7]), "party 1 is not a table"),
        (_list(extra=1), "unknown key 'extra'"),
        (_list(members=[_row(name="a/b")]), "'a/b' is no name"),
        (_list(members=[_row(name=None)]), "party 1: 'name' is of the wrong kind"),
        (_list(members=[_row(role="root")]), "its role is one of server, silo, admin"),
        (_list(members=[_row(identity="00" * 32)]), "silo 'north': its identity is no key"),
        (_list(members=[_row(identity="")]), "silo 'north': its identity is not a public key"),
        (_list(members=[_row(node_key="")]), "silo 'north': its node_key is not a node's"),
        (_list(members=[_row(node_key=NODES[0] + " me")]), "its node_key is not a node's"),
        (_list(members=[_row(role="admin")]), "admin 'north': its node_key must be empty"),
        (_list(members=[_row(expires="2030-01-01")]), "expires = '2030-01-01' is no moment"),
        (_list(members=[_row(expires="2030-01-01T00:00:00Z")]), "is no moment in UTC"),
        (_list(members=[_row(revoked=0)]), "'revoked' is of the wrong kind"),
        (_list(members=[_row(revoked=...)]), "party 1: 'revoked' is missing"),
        (_list(members=[_row(revokd=True)]), "unknown key 'revokd'. Did you mean 'revoked'?"),
        (_list(members=[_row(), _row()]), "silo 'north' and silo 'north' have the same name"),
        (
            _list(members=[_row(), _row(name="NORTH")]),
            "silo 'north' and silo 'NORTH' have the same name",
        ),
        (
            _list(members=[_row(), _row(name="south", node_key=NODES[1])]),
            "silo 'north' and silo 'south' have the same identity",
        ),
        (
            _list(members=[_row(), _row(name="south", identity=IDENTITIES[1])]),
            "silo 'north' and silo 'south' have the same node_key",
        ),
    ],
)
def test_a_signed_list_with_a_mistake_is_refused(table: Any, message: str) -> None:
    with pytest.raises(PartiesError, match=re.escape(message)):
        read_parties(_sealed(table), project_key=KEY.public)


def test_a_sound_list_of_the_same_shape_is_read() -> None:
    """The list that the cases above spoil."""
    parties = read_parties(_sealed(_list()), project_key=KEY.public)
    assert parties.named("north") == Party(
        name="north", role="silo", identity=IDENTITIES[0], node_key=NODES[0], expires=LATER
    )


def test_a_repeated_key_is_refused_although_the_signature_fits() -> None:
    """Readers differ about which of the two counts."""
    content = _sealed(_list())
    twice = content.replace(b'"version": 1', b'"version": 7, "version": 1')
    assert twice != content
    with pytest.raises(PartiesError, match="not JSON as privet writes it"):
        read_parties(twice, project_key=KEY.public)


def test_a_node_key_of_another_curve_is_refused() -> None:
    other = NodeKey(ec.generate_private_key(ec.SECP256R1())).public
    with pytest.raises(PartiesError, match="its node_key is not a node's public key"):
        Party(name="north", role="silo", identity=IDENTITIES[0], node_key=other, expires=LATER)


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(PartiesError, match="'expires' has no time zone"):
        Party(name="ana", role="admin", identity=IDENTITIES[0], expires=datetime(2030, 1, 1))


def test_two_servers_are_refused() -> None:
    servers = [
        Party(name=name, role="server", identity="", expires=LATER) for name in ("one", "two")
    ]
    with pytest.raises(PartiesError, match="one server, not two"):
        Parties("lungs", 1, tuple(servers))


def test_who_may_do_something_at_a_moment(maker: Any) -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    north = maker.party("north", expires=end)
    assert north.fault(end - timedelta(seconds=1)) is None
    assert north.fault(end) == "silo 'north' expired on 2027-01-01"
    assert maker.party("ana", "admin", revoked=True).fault(end) == "admin 'ana' is revoked"


def test_parties_are_found_by_name_key_and_role(maker: Any) -> None:
    server, north, ana = (
        maker.party("server", "server"),
        maker.party("north"),
        maker.party("ana", "admin"),
    )
    gone = maker.party("south", revoked=True)
    parties = Parties("lungs", 1, (server, north, gone, ana))
    assert parties.named("south") == gone
    assert parties.named("nobody") is None
    assert parties.silos() == (north,)


def test_the_roster_has_the_silos_that_are_not_revoked(maker: Any) -> None:
    gone = maker.party("west", revoked=True)
    parties = maker.parties("north", "south")
    assert Parties("lungs", 1, (*parties.members, gone)).roster() == parties.roster()
    assert parties.roster().names == ("north", "south")
    with pytest.raises(RosterError, match="lists 2 to"):
        maker.parties("alone").roster()


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "parties.json"
    with pytest.raises(PartiesError, match=r"parties\.json: the list cannot be read \(No such"):
        load_parties(path, project_key=KEY.public)
    path.write_text("{")
    with pytest.raises(PartiesError, match=r"parties\.json: the list of parties is not JSON"):
        load_parties(path, project_key=KEY.public)
