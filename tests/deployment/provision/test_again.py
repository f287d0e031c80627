"""Provision run again: what is kept, what changes, what cannot."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privet.deployment.parties import NodeKey, PartiesError
from privet.deployment.provision import ProvisionError, join
from privet.deployment.provision import rendering as folders
from privet.privacy.ledger.keys import SiloKey

Contents = Callable[[Path], dict[str, tuple[bytes, int]]]


def test_a_second_run_changes_no_byte(operators: Any, contents: Contents) -> None:
    operators.run()
    before = contents(operators.out)
    done = operators.run(days_later=3)
    assert contents(operators.out) == before
    assert set(operators.outcomes(done).values()) == {"kept"}
    assert (done.version, done.notes) == (1, ())


def test_a_new_silo_changes_nobody_elses_files_but_the_list(
    operators: Any, contents: Contents
) -> None:
    operators.run()
    before = contents(operators.out)
    operators.text += "[silos.west]\n"
    done = operators.run(days_later=3)
    after = contents(operators.out)
    changed = {name for name in before if before[name] != after[name]}
    assert {name for name in changed if not name.endswith(".zip")} == {
        "parties.json",
        *(f"{kit}/parties.json" for kit in ("server", "north", "south", "ana")),
    }
    assert {name.partition("/")[0] for name in set(after) - set(before)} == {"west", "west.zip"}
    assert operators.outcomes(done) == {
        "server": "kept",
        "north": "kept",
        "south": "kept",
        "ana": "kept",
        "west": "made",
    }
    assert operators.parties().version == 2
    assert any("Bring" in note and "parties.json to the server" in note for note in done.notes)


def test_files_that_their_owners_edited_stay(operators: Any) -> None:
    operators.run()
    kit = operators.out / "north"
    edited = {}
    for name in ("policy.toml", "silo.toml", "README.md", "start.sh", "Dockerfile"):
        edited[name] = (kit / name).read_text() + "# mine\n"
        (kit / name).write_text(edited[name])
    (kit / "ledger.sqlite").write_text("what was spent")
    operators.text += "[silos.west]\n"
    operators.run()
    assert {name: (kit / name).read_text() for name in edited} == edited
    with zipfile.ZipFile(operators.out / "north.zip") as archive:
        assert archive.read("north/policy.toml").decode() == edited["policy.toml"]
        assert "north/ledger.sqlite" not in archive.namelist()


def test_revoking_is_for_good(operators: Any) -> None:
    operators.run()
    done = operators.run(revoke=["north"])
    assert operators.outcomes(done)["north"] == "revoked"
    assert done.version == 2
    again = operators.run()
    assert operators.outcomes(again)["north"] == "revoked"
    assert again.version == 2
    assert [silo.name for silo in operators.parties("server").silos()] == ["south"]
    north = operators.parties().named("north")
    assert north is not None
    assert north.revoked


def test_the_kit_of_who_is_revoked_is_left_as_it_is(operators: Any, contents: Contents) -> None:
    operators.run()
    before = contents(operators.out / "north")
    operators.run(revoke=["north"])
    assert contents(operators.out / "north") == before


def test_who_is_no_longer_in_the_file_is_revoked(operators: Any) -> None:
    operators.run()
    operators.text = operators.text.replace("[admins.ana]\n", "")
    assert operators.outcomes(operators.run())["ana"] == "revoked"
    operators.text += "[admins.ana]\n"
    assert operators.outcomes(operators.run())["ana"] == "revoked"
    assert operators.parties().named("ana").revoked
    assert operators.parties().version == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nroth", "--revoke nroth: no such party is on the list. Did you mean 'north'?"),
        ("server", "--revoke server: only silos and administrators"),
    ],
)
def test_only_parties_can_be_revoked(
    operators: Any, contents: Contents, name: str, message: str
) -> None:
    operators.run()
    before = contents(operators.out)
    with pytest.raises(ProvisionError, match=re.escape(message)):
        operators.run(revoke=[name])
    assert contents(operators.out) == before


def test_a_mistake_leaves_no_folder_behind(operators: Any) -> None:
    with pytest.raises(ProvisionError, match="no such party"):
        operators.run(revoke=["north"])
    assert not operators.out.exists()


def test_membership_is_prolonged_near_its_end_unless_the_file_says(operators: Any) -> None:
    operators.text += "[silos.west]\nexpires = 2027-01-15\n"
    operators.run()
    done = operators.run(days_later=340)
    assert operators.outcomes(done)["north"] == "renewed"
    north, west = (operators.parties().named(name) for name in ("north", "west"))
    assert north is not None
    assert west is not None
    assert f"{north.expires:%Y-%m-%d}" == "2028-05-06"
    assert f"{west.expires:%Y-%m-%d}" == "2027-01-15"
    details = {row.name: row.detail for row in done.rows}
    assert details["west"] == "silo 'west' expired on 2027-01-15"


def test_short_projects_are_not_renewed_at_once(operators: Any, contents: Contents) -> None:
    operators.text = "days = 9\n" + operators.text
    operators.run()
    before = contents(operators.out)
    operators.run(days_later=5)
    assert contents(operators.out) == before
    assert operators.outcomes(operators.run(days_later=7))["north"] == "renewed"


def test_a_kit_that_was_handed_over_and_deleted_is_not_made_again(operators: Any) -> None:
    operators.run()
    shutil.rmtree(operators.out / "north")
    (operators.out / "north.zip").unlink()
    done = operators.run()
    assert not (operators.out / "north").exists()
    assert operators.outcomes(done)["north"] == "kept"
    assert done.version == 1


def test_a_name_does_not_change_its_role(operators: Any) -> None:
    operators.run()
    operators.text = operators.text.replace("[admins.ana]", "[silos.ana]")
    with pytest.raises(ProvisionError, match="admin 'ana' cannot come back as silo"):
        operators.run()


def test_a_folder_belongs_to_one_project(operators: Any) -> None:
    operators.run()
    operators.text = operators.text.replace("lungs", "hearts")
    with pytest.raises(ProvisionError, match=r"name = 'hearts', but .* is of project 'lungs'"):
        operators.run()


def test_without_the_project_key_nothing_is_made_anew(operators: Any, contents: Contents) -> None:
    operators.run()
    (operators.out / "project.key").unlink()
    before = contents(operators.out)
    with pytest.raises(ProvisionError, match=r"project\.key is missing, the key of .*parties\.js"):
        operators.run()
    assert contents(operators.out) == before


def test_a_list_that_somebody_changed_stops_everything(operators: Any) -> None:
    operators.run()
    path = operators.out / "parties.json"
    path.write_text(path.read_text().replace('"revoked": false', '"revoked": true', 1))
    with pytest.raises(PartiesError, match="not signed by the project's key"):
        operators.run()


def test_a_folder_in_the_way_is_not_taken_for_a_kit(operators: Any) -> None:
    (operators.out / "north").mkdir(parents=True)
    with pytest.raises(ProvisionError, match="kits/north is in the way of a kit"):
        operators.run()
    assert list(operators.out.iterdir()) == [operators.out / "north"]


def test_two_runs_do_not_meet(operators: Any) -> None:
    operators.run()
    descriptor = os.open(operators.out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ProvisionError, match="another provision is at work in"):
            operators.run()
    finally:
        os.close(descriptor)


def test_a_folder_that_cannot_be_made_is_said(operators: Any) -> None:
    operators.out.write_text("a file")
    with pytest.raises(ProvisionError, match="kits: "):
        operators.run()


class _Cut(Exception):
    """The machine stopped here."""


@pytest.mark.parametrize("call", range(1, 40, 3))
def test_a_run_that_is_cut_short_is_made_good(
    operators: Any, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Whatever was being written: no half kit stands there, and the next run ends well."""
    real, count = folders.write_whole, 0

    def cut(path: Path, content: bytes, **how: Any) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise _Cut
        real(path, content, **how)

    monkeypatch.setattr(folders, "write_whole", cut)
    with pytest.raises(_Cut):
        operators.run()
    monkeypatch.undo()
    for kit in (path for path in operators.out.iterdir() if path.is_dir()):
        assert (kit / "README.md").exists()
    operators.run()
    assert not [path for path in operators.out.iterdir() if path.name.startswith(".")]
    parties = operators.parties("server")
    assert parties == operators.parties("north") == operators.parties()
    for silo in parties.silos():
        kit = operators.out / silo.name
        assert SiloKey.load(kit / "identity.key").public == silo.identity
        assert NodeKey.load(kit / "node.key").public == silo.node_key
        assert kit.with_suffix(".zip").exists()


def test_kits_that_stand_before_the_list_is_written_keep_their_keys(operators: Any) -> None:
    """As after a power cut between one kit and the next."""
    operators.run()
    before = operators.parties()
    for name in ("parties.json", "server.pem", "south.zip", "ana.zip"):
        (operators.out / name).unlink()
    shutil.rmtree(operators.out / "south")
    shutil.rmtree(operators.out / "ana")
    operators.run()
    after = operators.parties()
    assert after == operators.parties("north") == operators.parties("south")
    assert after.named("north") == before.named("north")
    assert after.named("server") == before.named("server")
    assert after.named("south") != before.named("south")


def test_keys_that_a_silo_made_itself_never_pass_the_operators(
    operators: Any, tmp_path: Path
) -> None:
    operators.text += "[silos.west]\nown_key = true\n"
    done = operators.run()
    assert operators.outcomes(done)["west"] == "waiting"
    assert "privet join init west" in done.rows[3].detail
    assert operators.parties().named("west") is None
    assert not (operators.out / "west").exists()

    public, public_keys = join("west", folder=tmp_path / "west")
    shutil.copy(public, tmp_path)
    done = operators.run()
    assert operators.outcomes(done)["west"] == "made"
    assert public_keys.identity in done.rows[-1].detail
    kit = operators.out / "west"
    assert not list(kit.glob("*.key"))
    assert "privet join init west" in (kit / "README.md").read_text()
    west = operators.parties("west").named("west")
    assert west is not None
    assert (west.identity, west.node_key) == (public_keys.identity, public_keys.node_key)
    assert operators.outcomes(operators.run())["west"] == "kept"


def test_a_public_half_may_be_named_or_given_in_the_file(operators: Any, tmp_path: Path) -> None:
    public, _ = join("west", folder=tmp_path / "west")
    _, east = join("east", folder=tmp_path / "east")
    _, bob = join("bob", folder=tmp_path / "bob")
    operators.text += (
        f'[silos.west]\npublic = "{public.relative_to(tmp_path)}"\n'
        f'[silos.east]\nidentity = "{east.identity}"\nnode_key = "{east.node_key}"\n'
        f'[admins.bob]\nidentity = "{bob.identity}"\n'
    )
    operators.run()
    assert not [
        path for name in ("west", "east", "bob") for path in (operators.out / name).glob("*.key")
    ]
    found = operators.parties().named("bob")
    assert found is not None
    assert (found.identity, found.node_key) == (bob.identity, "")


def test_everybody_may_be_asked_for_a_key(operators: Any, tmp_path: Path) -> None:
    done = operators.run(own_keys=True)
    assert operators.outcomes(done) == {
        "server": "made",
        "north": "waiting",
        "south": "waiting",
        "ana": "waiting",
    }
    assert [member.name for member in operators.parties().members] == ["server"]
    for name in ("north", "south", "ana"):
        public, _ = join(name, folder=tmp_path / name)
        shutil.copy(public, tmp_path)
    done = operators.run(own_keys=True)
    assert operators.outcomes(done)["ana"] == "made"
    assert len(operators.parties().members) == 4
    assert {path.name for path in operators.out.rglob("*.key")} == {
        "project.key",
        "ca.key",
        "server.key",
    }


def test_a_party_does_not_change_its_key(operators: Any, tmp_path: Path) -> None:
    operators.run()
    public, _ = join("north", folder=tmp_path / "north")
    shutil.copy(public, tmp_path)
    with pytest.raises(ProvisionError, match="silo 'north' has another key on the list"):
        operators.run()


def test_mistakes_in_public_halves_are_said_before_anything_is_made(
    operators: Any, tmp_path: Path
) -> None:
    public, public_keys = join("west", folder=tmp_path / "west")
    text = public.read_text()
    target = tmp_path / "north.public.toml"

    def refused(content: str, message: str) -> None:
        target.write_text(content)
        with pytest.raises((ProvisionError, PartiesError), match=message) as caught:
            operators.run()
        assert "\n" not in str(caught.value)
        assert not operators.out.exists()

    refused(text, r"north\.public\.toml is of 'west', not of 'north'")
    text = text.replace('name = "west"', 'name = "north"')
    refused(text.replace("identity =", "idenity ="), "unknown key 'idenity'. Did you mean 'iden")
    refused(text.replace(public_keys.identity, "0" * 64), "identity: it is no key")
    refused(text.replace("ecdsa-sha2", "ssh"), "silo 'north': its node_key is not a node's")
    refused("=", "is not a TOML file")
    (tmp_path / "south.public.toml").write_text(text.replace("north", "south"))
    refused(text, "silo 'north' and silo 'south' have the same identity")
    operators.text = operators.text.replace("[silos.south]", '[silos.south]\npublic = "gone.toml"')
    refused(text, r"cannot read .*gone\.toml: No such file")


def test_joining_again_keeps_the_keys(tmp_path: Path, contents: Contents) -> None:
    join("west", folder=tmp_path / "west")
    before = contents(tmp_path)
    assert {name: mode for name, (_, mode) in before.items()} == {
        "west/identity.key": 0o600,
        "west/node.key": 0o600,
        "west/west.public.toml": 0o644,
    }
    join("west", folder=tmp_path / "west")
    assert contents(tmp_path) == before
    with pytest.raises(ProvisionError, match="'a/b' is no name"):
        join("a/b", folder=tmp_path / "other")
    with pytest.raises(ProvisionError, match="cannot be written"):
        join("west", folder=tmp_path / "west" / "node.key")
