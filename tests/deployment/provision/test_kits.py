"""What is in a kit, and what is in none."""

from __future__ import annotations

import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from privet.deployment.parties import AdminKit, NodeKey, ServerKit, SiloKit, load_parties
from privet.privacy.ledger.keys import SiloKey
from privet.privacy.policy import Policy, explain, starting_policy

RUNNING = ["Dockerfile", "check.sh", "start.sh", "stop.sh"]
KITS: dict[str, list[str]] = {
    "server": [
        *RUNNING, "README.md", "ca.pem", "parties.json", "privet-lungs-server.service",
        "server.key", "server.pem", "server.toml",
    ],
    "north": [
        *RUNNING, "README.md", "ca.pem", "identity.key", "node.key", "parties.json", "policy.toml",
        "privet-lungs-north.service", "silo.toml",
    ],
    "ana": ["README.md", "admin.toml", "ca.pem", "identity.key", "parties.json"],
}  # fmt: skip


@pytest.fixture
def out(operators: Any) -> Path:
    operators.run()
    return operators.out


@pytest.mark.parametrize("name", KITS)
def test_a_kit_is_a_folder_and_the_same_in_an_archive(out: Path, name: str) -> None:
    assert sorted(path.name for path in (out / name).iterdir()) == sorted(KITS[name])
    with zipfile.ZipFile(out / f"{name}.zip") as archive:
        held = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    assert held == {f"{name}/{path.name}": path.read_bytes() for path in (out / name).iterdir()}


@pytest.mark.parametrize("name", KITS)
def test_keys_are_for_their_owner_and_scripts_can_run(out: Path, name: str) -> None:
    def due(file: str) -> int:
        return 0o600 if file.endswith(".key") else 0o755 if file.endswith(".sh") else 0o644

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (out / name).iterdir()}
    assert modes == {file: due(file) for file in modes}
    with zipfile.ZipFile(out / f"{name}.zip") as archive:
        for entry in archive.infolist():
            assert entry.external_attr >> 16 == stat.S_IFREG | due(Path(entry.filename).name)
    for secret in (out / f"{name}.zip", out / "project.key", out / "ca.key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((out / name).stat().st_mode) == 0o700


@pytest.mark.skipif(shutil.which("unzip") is None, reason="needs unzip")
def test_unzip_restores_the_modes(out: Path, tmp_path: Path) -> None:
    subprocess.run(["unzip", "-q", out / "north.zip", "-d", tmp_path / "x"], check=True)
    kit = tmp_path / "x" / "north"
    assert SiloKey.load(kit / "identity.key").public
    assert (kit / "start.sh").stat().st_mode & 0o111


def test_what_makes_the_project_is_in_no_kit(out: Path) -> None:
    secrets = [(out / name).read_bytes() for name in ("project.key", "ca.key")]
    others = [path for path in out.rglob("*") if path.is_file() and path.parent != out]
    archives = list(out.glob("*.zip"))
    assert len(archives) == 4
    for path in (*others, *archives):
        content = path.read_bytes()
        assert not any(secret in content or secret[40:90] in content for secret in secrets), path


def test_nobody_has_anybody_elses_key(out: Path) -> None:
    keys = [path.read_bytes() for path in out.rglob("*.key")]
    assert len(keys) == len(set(keys)) == 8
    for path in out.rglob("*"):
        if path.is_file() and path.suffix not in (".key", ".zip"):
            assert b"PRIVATE" not in path.read_bytes()


def test_every_configuration_is_read_as_it_was_meant(operators: Any) -> None:
    operators.text = (
        'name = "lungs"\n[server]\nhosts = ["a.example"]\nport = 9000\nmetrics = ""\n'
        '[silos.north]\ndataset = "scans"\nshare = "1/3"\nhealth = "127.0.0.1:7000"\n'
        'data_dir = "/srv/\\"é\\\\x\\u007f"\n[silos.south]\n[admins.ana]\n'
    )
    done = operators.run()
    server = ServerKit.from_folder(operators.out / "server")
    assert (server.listen, server.metrics, server.health) == (
        "0.0.0.0:9000",
        None,
        "127.0.0.1:9400",
    )
    north = SiloKit.from_folder(operators.out / "north")
    assert (north.dataset, north.part, north.health) == ("scans", (1, 3), "127.0.0.1:7000")
    assert north.data_dir == Path('/srv/"é\\x\x7f')
    assert "privet health 127.0.0.1:7000" in (operators.out / "north" / "check.sh").read_text()
    south = SiloKit.from_folder(operators.out / "south")
    assert (south.dataset, south.part, south.data_dir) == ("south", None, None)
    ana = AdminKit.from_folder(operators.out / "ana")
    for kit in (server, north, south, ana):
        assert (kit.project, kit.project_key) == ("lungs", done.project_key)
        assert kit.ca.is_file()
        assert load_parties(kit.parties, project_key=kit.project_key).version == 1
    assert north.server == ana.server == "https://a.example:9000"


def test_the_list_names_the_keys_in_the_kits(out: Path, operators: Any) -> None:
    parties = operators.parties("server")
    assert [member.name for member in parties.members] == ["server", "north", "south", "ana"]
    for silo in parties.silos():
        assert SiloKey.load(out / silo.name / "identity.key").public == silo.identity
        assert NodeKey.load(out / silo.name / "node.key").public == silo.node_key
    ana = parties.named("ana")
    assert ana is not None
    assert SiloKey.load(out / "ana" / "identity.key").public == ana.identity
    assert parties.roster().names == ("north", "south")


def test_a_silo_begins_with_a_policy_that_lets_nothing_run(out: Path) -> None:
    path = out / "north" / "policy.toml"
    assert path.read_text() == starting_policy()
    assert explain(Policy.from_file(path))


@pytest.mark.parametrize("name", KITS)
def test_the_first_steps_are_three(out: Path, name: str) -> None:
    lines = (out / name / "README.md").read_text().splitlines()
    assert [line[:3] for line in lines if line[:1].isdigit()] == ["1. ", "2. ", "3. "]


def test_scripts_are_sound_and_find_their_folder(out: Path, tmp_path: Path) -> None:
    """A stand-in for the command says where and how it was called."""
    fake = out / "north" / ".venv" / "bin" / "privet"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\necho "$PWD" "$@"\n')
    fake.chmod(0o755)

    def said(script: str) -> str:
        command = [out / "north" / script]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert said("start.sh") == f"{out / 'north'} silo ."
    assert said("check.sh") == f"{out / 'north'} health 127.0.0.1:9402"
    assert said("stop.sh") == "north is not running"


def test_stop_ends_the_process_that_wrote_its_number_and_no_other(out: Path) -> None:
    kit = out / "north"
    ours = subprocess.Popen(
        ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done", "privet"]
    )
    other = subprocess.Popen(["sleep", "60"])
    try:
        (kit / "state").mkdir()
        for process, words in ((other, "is not running"), (ours, "has ended")):
            (kit / "state" / "silo.pid").write_text(f"{process.pid}\n")
            stop = subprocess.Popen([kit / "stop.sh"], stdout=subprocess.PIPE, text=True)
            while stop.poll() is None:
                process.poll()
            assert stop.stdout is not None
            assert words in stop.stdout.read()
        assert other.poll() is None
        assert ours.wait(10) == 0
    finally:
        other.kill()
        other.wait()
        ours.kill()
        ours.wait()


def test_a_unit_may_write_only_its_kit(out: Path) -> None:
    unit = (out / "server" / "privet-lungs-server.service").read_text().splitlines()
    for line in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ReadWritePaths=/opt/privet/lungs-server",
        "PrivateTmp=yes",
        "Restart=on-failure",
        "Description=privet: server of lungs",
    ):
        assert line in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["server", "north"])
def test_systemd_understands_the_unit(out: Path, name: str) -> None:
    said = subprocess.run(
        ["systemd-analyze", "verify", out / name / f"privet-lungs-{name}.service"],
        capture_output=True,
        text=True,
    )
    # The kit does not lie where the unit says, here.
    lines = [line for line in said.stderr.splitlines() if "is not executable" not in line]
    assert lines == []


def test_no_key_gets_into_an_image(out: Path) -> None:
    text = (out / "north" / "Dockerfile").read_text()
    assert "COPY" not in text
    assert "ADD" not in text
    assert "USER privet" in text
    assert 'CMD ["privet", "health", "127.0.0.1:9402"]' in text
    assert text.splitlines()[-1] == 'CMD ["privet", "silo", "/kit"]'
    assert "EXPOSE 8443" in (out / "server" / "Dockerfile").read_text()


def test_without_a_health_service_nothing_asks_for_it(operators: Any) -> None:
    operators.text += '[silos.west]\nhealth = ""\n'
    operators.run()
    kit = operators.out / "west"
    assert "HEALTHCHECK" not in (kit / "Dockerfile").read_text()
    assert subprocess.run([kit / "check.sh"], capture_output=True).returncode == 2
