"""Parts that travel together, asked for and sent by a silo that means no good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree

from gate_project import GateProject, LiveServer, healthy_exchange
from privet.wire.parts import GIVE, TAKE, pack, unpack

RUNS = [
    0,
    -1,
    2**63,
    2**64 + 1,
    10**400,
    float("inf"),
    float("nan"),
    None,
    "9" * 5000,
    [1],
    "\ud800",
]
NAMES: list[Any] = ["", "0" * 64, "\ud800", "\x00", "../x", "x" * 9999]


@pytest.fixture
def north(project: GateProject, server: LiveServer) -> Iterator[httpx.Client]:
    with project.http("north") as client:
        yield client


def bodies(run: int) -> Iterator[tuple[str, bytes]]:
    for each in RUNS:
        yield TAKE, pack({}, run=each, wanted=["0" * 64])
        yield GIVE, pack({"0" * 64: b"x"}, run=each, session="s")
    for wanted in (NAMES, ["0" * 64] * 9999, [[1]], {"a": 1}, "names", 7, None):
        yield TAKE, pack({}, run=run, wanted=wanted)
    for name in NAMES:
        yield GIVE, pack({name: b"x"}, run=run, session="s")
    for session in ("", None, 7, ["s"], "\ud800", "s" * 9999):
        yield GIVE, pack({get_object_id(b"x"): b"x"}, run=run, session=session)
    for body in (b"", b"\n", b"{}\n", b"[" * 9999 + b"\n", pack({}), b"\xff\n"):
        yield TAKE, body
        yield GIVE, body


def test_no_parts_are_a_servers_fault(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    with server.run() as grid:
        for route, body in bodies(grid._live.id):
            answer = north.post(f"/privet/v1/{route}", content=body)
            assert answer.status_code in (200, 400, 410), (route, body[:200])
            if route == GIVE and answer.status_code == 200:
                assert answer.json() == {"taken": []}
    healthy_exchange(project, server)


@pytest.mark.parametrize("route", [TAKE, GIVE])
def test_parts_are_for_silos(project: GateProject, server: LiveServer, route: str) -> None:
    for name in (None, "ana"):
        with project.http(name) as client:
            answer = client.post(f"/privet/v1/{route}", content=pack({}, run=1, wanted=[]))
            assert answer.status_code == 403


def test_parts_of_a_run_that_is_over_are_gone(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    content = RecordDict({"task": ConfigRecord({"round": 1})})
    with project.connection("north") as connection, server.run() as grid:
        grid.push_messages([server.message("north", content=content)])
        while (found := connection.next()) is None:
            pass
        head, tree = found
        names = [part.object_id for part in iterate_object_tree(tree)]
        body = pack({}, run=head.metadata.run_id, wanted=names)
        taken, _ = unpack(north.post(f"/privet/v1/{TAKE}", content=body).content)
        assert set(taken) == set(names)
    assert north.post(f"/privet/v1/{TAKE}", content=body).status_code == 410
