"""Who may ask a live server for what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from flwr.app import Message
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from gate_project import GateProject, LiveServer, answer_once, echo, healthy_exchange
from privet.deployment.parties import Party
from privet.deployment.parties.orders import Order
from privet.deployment.silo.connection import Connection
from privet.experiment import Experiment
from privet.wire.transport import ANSWER, HEAD, NEXT, pack

SERVED = {
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "get-run",
    "push-object",
    "pull-object",
    "confirm-message-received",
}
ROUTES = sorted(path for _, path in PROTOBUF_REQUEST_TYPES)
FLEET = [path for path in ROUTES if path.removeprefix("/v1/fleet/") in SERVED]
HIDDEN = [path for path in ROUTES if path not in FLEET]
OWN = [
    ("GET", "status"),
    ("GET", "jobs"),
    ("POST", "jobs"),
    ("GET", "jobs/0123456789ab"),
    ("GET", "jobs/0123456789ab/history?from=0"),
    ("GET", "jobs/0123456789ab/log"),
    ("POST", "jobs/0123456789ab/cancel"),
    ("GET", "jobs/0123456789ab/files/model.safetensors"),
]


@pytest.fixture(scope="module")
def clients(project: GateProject, server: LiveServer) -> Iterator[dict[str, httpx.Client]]:
    made = {name: project.http(name or None) for name in ("", "ana", "north", "south")}
    yield made
    for client in made.values():
        client.close()


def order(project: GateProject, by: str = "ana") -> str:
    made = Order.create(
        Experiment.from_mapping({"task": "digits"}), project=project.name, requester=by
    )
    return made.signed(project.key(by))


def test_flowers_other_routes_are_not_there_for_anybody(
    project: GateProject, clients: dict[str, httpx.Client]
) -> None:
    assert len(HIDDEN) > 60
    assert len(FLEET) == len(SERVED)
    headers = project.node_headers("north")
    for path in HIDDEN:
        for name in ("", "ana", "north"):
            answer = clients[name].post(path, headers=headers)
            assert answer.status_code == 404, (path, name)
    for path in FLEET:
        assert clients["north"].get(path, headers=headers).status_code == 404
        assert clients["north"].post(path + "/", headers=headers).status_code == 404


@pytest.mark.parametrize("name", ["", "ana"])
def test_fleet_routes_are_for_silos(
    project: GateProject, clients: dict[str, httpx.Client], name: str
) -> None:
    for path in FLEET:
        answer = clients[name].post(path, headers=project.node_headers("north"))
        assert answer.status_code == 403, path


def test_a_silo_cannot_come_under_anothers_node(
    project: GateProject, server: LiveServer, clients: dict[str, httpx.Client]
) -> None:
    other, own = project.node_headers("south"), project.node_headers("north")
    twice = [*other.items(), (FLEET_HTTP_PUBLIC_KEY_HEADER, own[FLEET_HTTP_PUBLIC_KEY_HEADER])]
    beat = SendNodeHeartbeatRequest(node=Node(node_id=server.node("south")), heartbeat_interval=10)
    body = beat.SerializeToString()
    for headers in (other, twice, {}, {**own, FLEET_HTTP_PUBLIC_KEY_HEADER: "%%%"}):
        for path in FLEET:
            answer = clients["north"].post(path, headers=headers, content=body)
            assert (answer.status_code, "node key" in answer.text) == (403, True)
    # With its own key it still is not the other.
    beaten = clients["north"].post("/v1/fleet/send-node-heartbeat", headers=own, content=body)
    assert beaten.status_code == 401


@pytest.mark.parametrize(("method", "path"), OWN)
def test_own_routes_are_for_administrators(
    project: GateProject, server: LiveServer, clients: dict[str, httpx.Client],
    method: str, path: str,
) -> None:  # fmt: skip
    text = order(project) if path == "jobs" else None
    for name in ("", "north"):
        answer = clients[name].request(method, f"/privet/v1/{path}", content=text)
        assert answer.status_code == 403
    assert server.store.all() == []
    allowed = clients["ana"].request(method, f"/privet/v1/{path}", content="{}")
    assert allowed.status_code == (200 if path in ("status", "jobs") and method == "GET" else
                                   403 if path == "jobs" else 404)  # fmt: skip


def test_hello_is_for_everybody_and_the_list_for_every_party(
    project: GateProject, clients: dict[str, httpx.Client]
) -> None:
    assert clients[""].get("/privet/v1/hello").json()["project"] == "lungs"
    assert clients[""].post("/privet/v1/hello").status_code == 403
    assert clients[""].get("/privet/v1/parties").status_code == 403
    listed = project.server_kit().parties.read_bytes()
    for name in ("ana", "north"):
        assert clients[name].get("/privet/v1/parties").content == listed


def test_a_silo_that_expired_or_was_revoked_can_do_nothing_from_that_moment(
    project: GateProject, server: LiveServer
) -> None:
    def change(party: Party) -> Party:
        if party.name == "gone":
            return replace(party, revoked=True)
        return replace(party, expires=datetime.now(UTC)) if party.name == "late" else party

    with project.http("gone") as gone, project.http("late") as late:
        for each in (gone, late):
            assert each.get("/privet/v1/parties").status_code == 200
        project.change(change)
        for each, name, why in ((gone, "gone", "revoked"), (late, "late", "expired")):
            for path in [*FLEET, "/privet/v1/jobs"]:
                answer = each.post(path, headers=project.node_headers(name))
                assert answer.status_code == 403
                assert why in answer.json()["error"]
    assert "gone" not in server.members.nodes


@pytest.mark.parametrize("start", ["-1", "x", "1e3", "9" * 30, "", "²"])
def test_a_place_in_a_log_that_is_none_is_a_mistake_of_who_asks(
    project: GateProject, server: LiveServer, clients: dict[str, httpx.Client], start: str
) -> None:
    job = server.store.add(order(project), project.parties())
    try:
        for what in ("history", "log"):
            url = f"/privet/v1/jobs/{job.id}/{what}"
            assert clients["ana"].get(url, params={"from": start}).status_code == 400
        assert "queued" in clients["ana"].get(f"/privet/v1/jobs/{job.id}/log?from=0").text
    finally:
        for file in job.folder.iterdir():
            file.unlink()
        job.folder.rmdir()


def push(reply: Message, node: int) -> PushMessagesRequest:
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.5],
        )


def test_a_silo_answers_and_confirms_only_what_it_was_asked(
    project: GateProject, server: LiveServer, clients: dict[str, httpx.Client]
) -> None:
    def answer(pushed: PushMessagesRequest) -> int:
        body = pack({HEAD: pushed.SerializeToString()})
        return clients["north"].post(f"/privet/v1/{ANSWER}", content=body).status_code

    north, south = server.node("north"), server.node("south")
    with project.connection("north") as mine, project.connection("south") as its:
        with server.run() as grid:
            grid.push_messages([server.message("north"), server.message("south")])
            asked, theirs = mine.fetch(*_next(mine)), its.fetch(*_next(its))
            honest = push(echo(asked), north)
            for_other = push(echo(theirs), north)  # in the other's name, under its own node
            assert answer(for_other) == 403
            for_other.messages_list[0].metadata.src_node_id = north  # to the other's question
            assert answer(for_other) == 403
            two = push(echo(asked), north)
            two.messages_list.append(two.messages_list[0])
            two.message_object_trees.append(two.message_object_trees[0])
            assert answer(two) == 400
            assert answer(PushMessagesRequest()) == 400
            renamed = push(echo(asked), north)
            renamed.message_object_trees[0].object_id = "0" * 64
            assert answer(renamed) == 403
            for seconds in (float("nan"), float("inf"), -1.0):
                wild = push(echo(asked), north)
                wild.clientapp_runtime_list[0] = seconds
                assert answer(wild) == 400
            confirm = ConfirmMessageReceivedRequest(
                node=Node(node_id=north),
                run_id=asked.metadata.run_id,
                message_object_id=theirs.metadata.message_id,
            )
            confirmed = clients["north"].post(
                "/v1/fleet/confirm-message-received",
                headers=project.node_headers("north"),
                content=confirm.SerializeToString(),
            )
            assert confirmed.status_code == 403
            assert answer(honest) == 200
        assert answer(honest) == 410  # the run is over
    assert south != north


def _next(connection: Connection) -> tuple:
    while (found := connection.next()) is None:
        pass
    return found


@pytest.mark.parametrize("interval", [0.0, -5.0, 61.0, 1e9, float("inf"), float("nan")])
def test_nobody_stays_online_for_longer_than_a_minute_without_a_sign_of_life(
    project: GateProject, server: LiveServer, clients: dict[str, httpx.Client], interval: float
) -> None:
    headers, node = project.node_headers("north"), Node(node_id=server.node("north"))
    public = ActivateNodeRequest(heartbeat_interval=interval)
    beat = SendNodeHeartbeatRequest(node=node, heartbeat_interval=interval)
    for path, body in (("activate-node", public), ("send-node-heartbeat", beat)):
        answer = clients["north"].post(
            f"/v1/fleet/{path}", headers=headers, content=body.SerializeToString()
        )
        assert answer.status_code == 400, path


def test_a_refusal_is_one_line_of_the_log_whatever_the_path_says(
    clients: dict[str, httpx.Client], caplog: pytest.LogCaptureFixture
) -> None:
    clients[""].get("/privet/v1/x%0Aforged%20line%1b[2J" + "y" * 3000)
    (line,) = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 400


def test_a_message_is_not_lost_on_a_silo_that_hung_up(
    project: GateProject, server: LiveServer
) -> None:
    """One that is killed while it waits leaves a question open; its successor gets the message."""
    with project.connection("west"):
        pass
    with project.http("west") as http, pytest.raises(httpx.ReadTimeout):
        http.post(f"/privet/v1/{NEXT}", timeout=0.5)
    with server.run() as grid, project.connection("west") as again:
        sent = grid.push_messages([server.message("west")])
        time.sleep(0.5)
        answer_once(again, echo)
        assert len(list(grid.pull_messages(sent))) == 1


def test_a_healthy_exchange_goes_through(project: GateProject, server: LiveServer) -> None:
    healthy_exchange(project, server)
