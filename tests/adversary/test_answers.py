"""A server that answers a silo wrongly, slowly, or not at all."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse

import privet
from gate_project import GateProject
from hostile_server import HostileServer, says, stalls, trickles
from privet.deployment.parties.orders import ORDER_KEY, Order
from privet.deployment.parties.transport import PROTOCOL
from privet.deployment.silo.connection import Connection, NotTrusted
from privet.deployment.silo.serving import _Silo
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.wire import Enrolment
from privet.wire.transport import ANSWER, HEAD, NEXT, pack
from silo_at_work import NoProcess, SiloAtWork

EXPERIMENT = Experiment.from_mapping(
    {"task": "digits", "federation": {"silos": 5}, "privacy": {"noise_multiplier": 9.0}}
)
QUICK = {"quiet": 0.4, "whole": 1.0}


@pytest.fixture(scope="module")
def order(project: GateProject) -> dict[str, str]:
    """The settings of a run that the silo believes."""
    made = Order.create(EXPERIMENT, project="lungs", requester="ana")
    return {ORDER_KEY: made.signed(project.key("ana"))}


def greeting(project: GateProject, **change: Any) -> str:
    """What the silo says of a server, once it has greeted it."""
    kit, stop = project.silo_kit("north").model_copy(update=change), threading.Event()
    auth = project.auth("north")
    connection = Connection(kit.server, ca=kit.ca, node_key=kit.node_key, auth=auth, stop=stop)
    try:
        with pytest.raises(PrivetError) as refused:
            _Silo(kit, connection, auth, stop, worker=NoProcess()).greet()
    finally:
        connection.close()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"project": "livers", "protocol": PROTOCOL}, "the server is of project 'livers'"),
        (
            {"project": "lungs", "protocol": 77, "privet": "7.1"},
            "speaks protocol '77' (privet '7.1')",
        ),
        ({"project": "lungs"}, "speaks protocol 'None'"),
        ({}, "the server is of project 'None'"),
        ([], "is no server of privet"),
        ("<html>", "is no server of privet"),
        ("[" * 99_999, "is no server of privet"),
        ({"project": "x" * 10**6}, "the server is of project 'xxx"),
        ({"project": "a\n\x1b[2J"}, "the server is of project 'a\\n\\x1b[2J'"),
        ({"project": "lungs", "protocol": "\n" * 99}, "speaks protocol '\\n\\n"),
    ],
)
def test_a_silo_says_in_one_line_why_it_has_nothing_to_do_with_a_server(
    project: GateProject, server: HostileServer, hello: object, why: str
) -> None:
    server.hello = hello
    said = greeting(project)
    assert why in said
    assert len(said) < 300
    if "protocol" in why:
        assert f"this side {PROTOCOL} (privet {privet.__version__}): upgrade the older one" in said


def test_a_refusal_is_told_in_one_line(project: GateProject, server: HostileServer) -> None:
    told = json.dumps({"error": "no\n\x1b[2J" + "o" * 9999})
    server.tricks["hello"] = says(told.encode(), status=403, kind="application/json")
    said = greeting(project)
    assert said.startswith("the server refuses: no  [2Jooo")
    assert len(said) < 600


def test_a_server_that_another_authority_certified_is_not_spoken_to(
    project: GateProject, server: HostileServer, tmp_path: Path
) -> None:
    other = GateProject(tmp_path / "other")
    said = greeting(project, ca=other.ca)
    assert said.startswith("the server's certificate is not from the project's authority")
    assert server.asked == []


def test_a_server_of_another_name_is_not_spoken_to(
    project: GateProject, server: HostileServer
) -> None:
    said = greeting(project, server=f"https://localhost:{project.port}")
    assert "not for this address" in said
    assert "localhost" in said
    assert server.asked == []


def test_a_connection_too_trusts_nobody_else(
    project: GateProject, server: HostileServer, tmp_path: Path
) -> None:
    kit = project.silo_kit("north")
    connection = Connection(
        f"https://localhost:{project.port}",
        ca=kit.ca,
        node_key=kit.node_key,
        auth=project.auth("north"),
        stop=threading.Event(),
    )
    with pytest.raises(NotTrusted):
        connection.activate()
    connection.close()
    assert server.asked == []


def enrolled(server: HostileServer, number: int) -> bool:
    return Enrolment.from_records(server.answer(number).content).silo == "north"


@pytest.mark.parametrize(
    ("route", "trick"),
    [
        ("pull-object", stalls()),
        (NEXT, trickles(100, 0.1)),
        pytest.param("pull-object", trickles(100, 0.1), marks=pytest.mark.slow),
        pytest.param(NEXT, stalls(), marks=pytest.mark.slow),
        (ANSWER, stalls()),
        pytest.param(ANSWER, trickles(100, 0.1), marks=pytest.mark.slow),
    ],
    ids=range(6),
)
def test_a_transfer_that_does_not_end_is_given_up(
    server: HostileServer,
    north: SiloAtWork,
    order: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    trick: Any,
    route: str,
) -> None:
    server.tricks[route] = trick
    server.send(order, ttl=1.0)
    with north.working(**QUICK), caplog.at_level(logging.WARNING, "privet.silo"):
        if route == "pull-object":
            wait_for(lambda: "is lost" in caplog.text)
        else:  # a server may be away for long, and the answer still be wanted
            wait_for(lambda: server.asked.count(route) > 1)
        del server.tricks[route]
        server.send(order)
        assert enrolled(server, 0 if route == "pull-object" else 1)


def test_a_server_that_is_gone_in_the_middle_of_a_message_and_comes_back_gets_its_answer(
    project: GateProject, order: dict[str, str]
) -> None:
    hello = {"project": "lungs", "protocol": PROTOCOL}
    first = HostileServer(project.server_kit(), hello, port=project.port)
    first.tricks["pull-object"] = stalls()
    first.send(order)
    silo = SiloAtWork(project, first)
    silo.policy()
    with silo.working(**QUICK):
        with first.serving():
            wait_for(lambda: "pull-object" in first.asked)
        time.sleep(0.5)
        first.tricks.clear()
        with first.serving():
            assert enrolled(first, 0)
    assert [type(error).__name__ for error in silo.errors] == ["Stopped"]


def test_an_answer_does_not_say_when_it_was_made(
    server: HostileServer, north: SiloAtWork, order: dict[str, str]
) -> None:
    """Which would be how long it took, finer than a clock behind a network sees it."""
    with north.working(**QUICK):
        for number, settings in enumerate((order, {})):  # an answer, and a refusal
            asked = server.send(settings, run=number + 1)
            reply = server.answer(number)
            assert (reply.metadata.created_at, reply.metadata.ttl) == asked


def nonsense() -> list[tuple[str, bytes]]:
    """Answers that are none, by route."""
    torn = b"\x0a\xff\xff\xff\xff\x0f"
    empty_tree = PullMessagesResponse()
    empty_tree.messages_list.add()
    wild = PullMessagesResponse()
    head = wild.messages_list.add()
    head.metadata.ttl = float("nan")
    head.metadata.created_at = float("inf")
    head.metadata.run_id = 2**63
    head.metadata.message_type = "\x00" * 3000
    wild.message_object_trees.add()
    return [
        (NEXT, pack({HEAD: torn})),
        (NEXT, pack({HEAD: empty_tree.SerializeToString()})),
        (NEXT, pack({HEAD: wild.SerializeToString()})),
        (NEXT, pack({})),
        (NEXT, b""),
        (NEXT, b"[" * 99_999),
        ("get-run", torn),
        ("get-run", b""),
        ("pull-object", torn),
        ("pull-object", b""),
        ("pull-object", PullObjectResponse(
            object_found=True, object_available=True, object_content=b"another"
        ).SerializeToString()),
        ("confirm-message-received", torn),
        (ANSWER, torn),
        (ANSWER, b""),
        (ANSWER, PushMessagesResponse(objects_to_push=["0" * 64]).SerializeToString()),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [200, pytest.param(500, marks=pytest.mark.slow)])
def test_an_answer_that_makes_no_sense_ends_no_silo(
    server: HostileServer, north: SiloAtWork, order: dict[str, str], status: int
) -> None:
    run = 0
    with north.working(**QUICK):
        for route, answer in nonsense():
            asked = server.asked.count(route)
            server.tricks[route] = says(answer, status=status)
            server.send(order, run=run + 1, ttl=1.0)
            wait_for(lambda: server.asked.count(route) > asked)  # noqa: B023
            server.tricks.clear()
            run += 2
            server.send(order, run=run)
            wait_for(lambda: server.replies and server.replies[-1].metadata.run_id == run)  # noqa: B023
            assert enrolled(server, -1)


def test_a_part_that_is_not_what_its_name_says_is_not_used(
    server: HostileServer,
    north: SiloAtWork,
    order: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.beside = {"0" * 64: b"another"}
    server.send(order)
    with north.working(**QUICK), caplog.at_level(logging.WARNING, "privet.silo"):
        wait_for(lambda: "it is not what its name says" in caplog.text)
        assert "pull-object" not in server.asked
        server.beside = {}
        server.send(order)
        assert enrolled(server, 0)


def wait_for(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


class Killed(BaseException):
    """The end of a process, which nothing in it sees coming."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def test_that_a_silo_ended_at_its_work_is_counted_before_it_is_told(
    server: HostileServer,
    north: SiloAtWork,
    order: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Code that the holder has approved could end the whole silo because of a record."""
    north.policy(sending="most_failures = 2")
    for number in (0, 1):
        server.send(order)
        with monkeypatch.context() as during:
            during.setattr(NoProcess, "answer", killed)
            with north.working(**QUICK):
                wait_for(lambda: north.errors)
        assert isinstance(north.errors[-1], Killed)
        with north.working(**QUICK):
            told = server.refusal(number)
        north.errors.clear()
        assert told.stage == "restart"
        (*_, last) = north.entries()
        assert f"enrol failed at restart: restarted (log: {told.reference})" in last.detail
    server.send(order)
    with north.working(**QUICK):
        assert "sending.most_failures" in server.refusal(2).reason


def test_a_message_that_no_job_had_begun_is_not_counted(
    server: HostileServer,
    north: SiloAtWork,
    order: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.send(order)
    monkeypatch.setattr(Connection, "fetch", killed)
    with north.working(**QUICK):
        wait_for(lambda: north.errors)
    monkeypatch.undo()
    assert isinstance(north.errors.pop(), Killed)
    with north.working(**QUICK):
        assert server.refusal(0).stage == "restart"
    assert north.entries() == []
