"""What strangers, old folders and odd orders do to a server of its own."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate_project import HOST, GateProject
from privet.commands.cli import cli
from privet.deployment.monitoring import health_fault
from privet.deployment.parties import PartiesError
from privet.deployment.server.condition import disk_fault
from privet.deployment.server.connections import ClientSocket, Connections
from real_server import RealServer

STATUS = "/privet/v1/status"


def test_what_cannot_be_read_is_set_aside_by_name(outside: RealServer) -> None:
    state = outside.project.folder / "kits/server/state"
    assert {path.name for path in (state / "broken").iterdir()} == {"foo", "abcdefabcdef"}
    assert not {"foo", "abcdefabcdef"} & {path.name for path in (state / "jobs").iterdir()}
    told = outside.privet("status")
    for name in ("foo", "abcdefabcdef"):
        assert f"state/broken/{name}" in told
        assert name in outside.log.read_text()


def test_a_crowd_of_silent_connections_keeps_nobody_out(outside: RealServer) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most), most))
    with ExitStack() as crowd:
        for _ in range(1100):
            made = socket.create_connection((HOST, outside.project.port), timeout=5)
            crowd.enter_context(made)
        # A job's thread opens files meanwhile, and is not to end at that.
        job = outside.submit(task="nobodys.module:Task")
        with outside.project.http("ana") as ana:
            assert ana.get(STATUS).status_code == 200
        end = time.monotonic() + 10
        while outside.state(job) != "failed":  # as it would without a crowd
            assert time.monotonic() < end
            time.sleep(0.1)
        assert health_fault(outside.health) is None
    assert outside.figure("privet_connections_cut_off_total") >= 900


def test_a_party_that_is_connected_gives_way_to_no_stranger(outside: RealServer) -> None:
    with outside.project.http("ana") as ana, ExitStack() as crowd:
        ana.get(STATUS)
        (before,) = ana._transport._pool.connections  # type: ignore[attr-defined]
        for _ in range(300):
            made = socket.create_connection((HOST, outside.project.port), timeout=5)
            crowd.enter_context(made)
        assert ana.get(STATUS).status_code == 200
        assert ana._transport._pool.connections == [before]  # type: ignore[attr-defined]


def test_what_strangers_ask_for_fills_no_log(outside: RealServer) -> None:
    before, counted = outside.log.stat().st_size, outside.figure("privet_requests_refused_total")
    with outside.project.http(None) as nobody:
        for number in range(300):
            assert nobody.get(f"/privet/v1/status?{number}").status_code == 403
    for _ in range(50):
        with outside.project.socket() as wire:
            wire.sendall(b"\x00\xff nonsense\r\n\r\n")
            wire.recv(100)
    assert outside.log.stat().st_size - before < 6000
    assert outside.figure("privet_requests_refused_total") - counted == 300


def test_an_order_that_looks_like_markup_is_shown(outside: RealServer) -> None:
    job = outside.submit(task="[/red]x:Y")
    told = outside.privet("status")
    assert "[/red]x:Y" in told
    assert job in told
    outside.submit(task=["odd"], rounds=[1])
    assert "['odd']" in outside.privet("status")


def test_a_log_is_read_from_wherever_one_likes(outside: RealServer) -> None:
    job = outside.submit()
    with outside.project.http("ana") as ana:
        answer = ana.get(f"/privet/v1/jobs/{job}/log?from=999999999999999")
        assert (answer.status_code, answer.text) == (200, "")
        ana.post(f"/privet/v1/jobs/{job}/cancel")


def test_health_has_a_word_for_each_part(outside: RealServer) -> None:
    parts = ("jobs", "link", "database", "disk", "certificate", "memberships")
    assert outside.privet("health", outside.health) == f"serving: {', '.join(parts)}\n"
    for part in parts:
        assert health_fault(outside.health, service=f"privet.server.{part}") is None
    assert outside.figure("privet_part_up") == len(parts)
    assert 29 < outside.figure("privet_certificate_days_left") <= 31
    with outside.project.http("ana") as ana:
        told = ana.get(STATUS).json()
    assert told["health"] == dict.fromkeys(parts)


def test_a_disk_that_is_nearly_full_is_said(tmp_path: Path) -> None:
    assert disk_fault(tmp_path, least_mb=0) is None
    assert "MB are free, least_disk_mb = 1000000000" in str(disk_fault(tmp_path, least_mb=10**9))


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    project = GateProject(tmp_path)
    kit = project.folder / "kits/server"
    (kit / "server.key").chmod(0o644)
    done = CliRunner().invoke(cli, ["server", str(kit)])
    assert done.exit_code == 1
    assert "server.key has mode 0644: others may read the key; chmod 600 it" in str(done.exception)


def test_a_list_from_before_a_revocation_is_not_acted_by_after_a_restart(tmp_path: Path) -> None:
    project = GateProject(tmp_path)
    kit = project.server_kit()
    old = kit.parties.read_bytes()
    project.change(lambda party: replace(party, revoked=party.name == "gone"))
    with project.serving() as server:
        assert "gone" not in server.members.nodes
    newer = kit.parties.read_bytes()
    kit.parties.write_bytes(old)
    with pytest.raises(PartiesError, match="this server has acted by version 2"), project.serving():
        pass
    kit.parties.write_bytes(newer)
    with project.serving() as server:
        assert "gone" not in server.members.nodes


def test_a_port_that_comes_again_takes_no_place_for_ever() -> None:
    connections = Connections(most=10, most_by_address=2)

    def client(port: int, host: str = HOST) -> ClientSocket:
        made = ClientSocket()
        made.connections, made.peer, made.network = connections, (host, port), host
        return made

    for _ in range(50):
        first, again, third = client(1), client(1), client(2)
        assert all(map(connections.enter, (first, again, third)))  # the first gives way
        connections.recognise([HOST, 1])
        assert (first.is_leaving, again.is_party) == (True, True)
        for each in (first, again, third):
            each.close()
        assert len(connections) == 0
    parties = [client(1), client(2)]
    for each in parties:
        assert connections.enter(each)
        connections.recognise(each.peer)
    assert not connections.enter(client(3))
    elsewhere = client(3, "127.0.0.2")
    assert connections.enter(elsewhere)
    for each in (*parties, elsewhere):
        each.close()
