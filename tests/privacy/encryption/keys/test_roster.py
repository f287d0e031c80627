"""Who is on the list, and whether the list is sound."""

from __future__ import annotations

import json

import pytest

from privet.privacy.encryption.keys import Member, Roster, RosterError, elect, load_roster

A, B, C = (f"{digit}" * 64 for digit in "abc")
TOML = f"""
version = 1

[[silos]]
name = "ada"
identity = "{A}"

[[silos]]
name = "bob"
identity = "{B}"
"""


@pytest.fixture
def write(tmp_path):
    def _write(text, name="roster.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def test_toml_and_json_of_the_same_silos_are_the_same_roster(write):
    silos = [{"name": "ada", "identity": A}, {"name": "bob", "identity": B}]
    as_json = json.dumps({"silos": silos, "version": 1})
    from_toml, from_json = load_roster(write(TOML)), load_roster(write(as_json, "roster.json"))
    assert from_toml == from_json == Roster((Member("ada", A), Member("bob", B)))
    assert from_toml.digest == from_json.digest
    assert from_toml.identity("bob") == B


def test_the_digest_depends_on_names_keys_and_order():
    ada, bob = Member("ada", A), Member("bob", B)
    rosters = [
        Roster((ada, bob)),
        Roster((bob, ada)),
        Roster((ada, Member("bob", C))),
        Roster((ada, Member("rob", B))),
        Roster((ada, bob, Member("cleo", C))),
    ]
    assert len({roster.digest for roster in rosters}) == len(rosters)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version = 1", "version = 2", "version must be 1"),
        ("version = 1", "version = true", "version must be 1"),
        ("version = 1", "", "'version' is missing"),
        ("[[silos]]", "[[silo]]", r"unknown key 'silo'. Did you mean 'silos'\?"),
        ("identity =", "identify =", r"unknown key 'identify'. Did you mean 'identity'\?"),
        ('name = "bob"', "name = 7", "silo 2: name must be a text"),
        ('"bob"', '"ADA"', "silos 1 and 2 have the same name"),
        ('"bob"', '"b b"', "silo 2: its name may have"),
        ('"bob"', '""', "silo 2: its name may have"),
        (B, A, "silos 1 and 2 have the same identity"),
        (B, B.upper(), "silo 'bob': its identity is not a public key"),
        (B, B[1:], "silo 'bob': its identity is not a public key"),
        (B, 64 * "0", "silo 'bob': its identity is no key"),
        ("[[silos]]", "[[silos]", "is not TOML"),
    ],
)
def test_a_mistake_is_named_in_one_line(write, old, new, problem):
    with pytest.raises(RosterError, match=problem) as caught:
        load_roster(write(TOML.replace(old, new)))
    assert "\n" not in str(caught.value)
    assert "roster.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "the roster must be a table"),
        ('{"version": 1, "silos": {}}', "silos must be a list"),
        ('{"version": 1, "silos": []}', "2 to 1000 silos, not 0"),
        ('{"version": 1, "silos": [1, 2]}', "silo 1 must be a table"),
        ('{"version": 1, "version": 1, "silos": []}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "is not JSON"),
        (" " * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_json_is_held_to_the_same(write, text, problem):
    with pytest.raises(RosterError, match=problem):
        load_roster(write(text, "roster.json"))


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path, write):
    with pytest.raises(RosterError, match="cannot be read"):
        load_roster(tmp_path / "absent.toml")
    with pytest.raises(RosterError, match=r"a \.toml or a \.json file"):
        load_roster(write(TOML, "roster.yaml"))


def test_a_pasted_private_key_is_not_repeated_in_the_error(write):
    with pytest.raises(RosterError) as caught:
        load_roster(write(TOML.replace(B, "PRIVATE-KEY-MATERIAL")))
    assert "MATERIAL" not in str(caught.value)


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def _add(one, two):
    (x1, y1), (x2, y2) = one, two
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def _with_y(y):
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def test_every_key_that_anyone_can_sign_for_is_refused():
    # The eight points of small order are the multiples of one of order 8, found by killing the
    # large prime order of any point; nothing is taken from a list.
    order = 2**252 + 27742317777372353535851937790883648493
    small = set()
    for y in range(2, 60):
        point = _with_y(y)
        if point is None:
            continue
        result, rest = (0, 1), order
        while rest:
            result = _add(result, point) if rest & 1 else result
            point, rest = _add(point, point), rest >> 1
        small.add(result)
    assert len(small) == 8
    for x, y in small:
        for value in {y, y + P if y + P < 2**255 else y}:
            for sign in (0, 1, x & 1):
                identity = (value | sign << 255).to_bytes(32, "little").hex()
                with pytest.raises(RosterError, match="anyone could sign"):
                    Roster((Member("ada", A), Member("bob", identity)))


def test_the_first_on_the_roster_that_is_present_is_elected():
    roster = Roster((Member("cleo", C), Member("ada", A), Member("bob", B)))
    assert elect(roster, ["bob", "ada", "cleo"]) == "cleo"
    assert elect(roster, ["bob", "ada"]) == elect(roster, {"ada", "bob"}) == "ada"
    with pytest.raises(RosterError, match="nobody"):
        elect(roster, [])
    with pytest.raises(RosterError, match="lists no silo 'eve'"):
        elect(roster, ["ada", "eve"])
    with pytest.raises(RosterError, match="twice"):
        elect(roster, ["ada", "ada"])
