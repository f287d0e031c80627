"""The project file."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privet.deployment.provision import Project, ProvisionError

HEAD = 'name = "lungs"\n[server]\nhosts = ["a.example"]\n'


def _project(folder: Path, text: str) -> Project:
    file = folder / "project.toml"
    file.write_text(text)
    return Project.from_file(file)


def test_a_project_needs_a_name_and_a_host(tmp_path: Path) -> None:
    project = _project(tmp_path, HEAD)
    assert (project.name, project.days) == ("lungs", 365)
    assert project.server.url == "https://a.example:8443"
    assert list(project.entries()) == []


def test_an_ipv6_host_has_brackets_in_the_address(tmp_path: Path) -> None:
    text = HEAD.replace("a.example", "::1") + "port = 9000\n"
    assert _project(tmp_path, text).server.url == "https://[::1]:9000"


def test_a_day_begins_at_midnight_utc(tmp_path: Path) -> None:
    text = HEAD + "[silos.a]\nexpires = 2027-01-01\n[admins.b]\nexpires = 2027-01-01T05:00:00+05:00"
    project = _project(tmp_path, text)
    midnight = datetime(2027, 1, 1, tzinfo=UTC)
    assert project.silos["a"].expires == midnight
    assert project.admins["b"].expires == midnight


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a b"\n[server]\nhosts = ["a"]', "name: 'a b' is no name"),
        ('nme = "lungs"', "unknown key 'nme'. Did you mean 'name'?"),
        ('name = "lungs"', "'server' is missing"),
        ('name = "lungs"\n[server]\nhost = ["a"]', "unknown key 'server.host'. Did you mean 'ho"),
        ('name = "lungs"\n[server]\nhosts = []', "server.hosts = []: "),
        ('name = "lungs"\n[server]\nhosts = "a"', "server.hosts = 'a': must be a list"),
        ('name = "lungs"\n[server]\nhosts = ["a:1"]', "server.hosts: 'a:1' is no host"),
        ('name = "lungs"\n[server]\nhosts = ["*.a"]', "server.hosts: '*.a' is no host"),
        (HEAD + "port = 0", "server.port = 0: "),
        (HEAD + 'port = "1"', "server.port = '1': "),
        (HEAD + "[silo.north]", "unknown key 'silo'. Did you mean 'silos'?"),
        (HEAD + "[silos.north]\nshar = 1", "unknown key 'silos.north.shar'. Did you mean 'share'?"),
        (HEAD + '[silos.north]\nshare = "4/3"', "silos.north.share: '4/3' is no share"),
        (HEAD + '[silos.north]\nexpires = "soon"', "silos.north.expires: must be a day"),
        (HEAD + '[silos.north]\nidentity = "x"', "silos.north.identity: it is not a public key"),
        (HEAD + f'[silos.north]\nidentity = "{"ab" * 32}"', "'identity' and 'node_key' are needed"),
        (
            HEAD + f'[admins.ana]\npublic = "x"\nidentity = "{"ab" * 32}"',
            "admins.ana: 'public' and 'identity' exclude each other",
        ),
        (HEAD + "[admins.ana]\nshare = 1", "unknown key 'admins.ana.share'"),
        (HEAD + '[silos."a/b"]', "'a/b' is no name"),
        (HEAD + "[silos.Server]", "'server' and 'Server' are two parties of one name"),
        (HEAD + "[silos.a]\n[admins.A]", "'a' and 'A' are two parties of one name"),
        (HEAD + '[silos."ca.pem"]', "'ca.pem': a party's name cannot end like a file's"),
        (HEAD + "[silos]\nnorth = 1", "silos.north = 1: must be a table"),
        ("days = 0\n" + HEAD, "days = 0: "),
        ("name = ", "is not a TOML file"),
    ],
)
def test_mistakes_are_said_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProvisionError, match=re.escape(message)) as caught:
        _project(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "project.toml" in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"cannot read .*p\.toml: No such file"):
        Project.from_file(tmp_path / "p.toml")
