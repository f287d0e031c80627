"""A silo that dies at an awkward moment and is started again: nobody waits for what is lost."""

from __future__ import annotations

import threading
import time

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute

from gate_project import GateProject, LiveServer, answer_once, echo
from privet.deployment.server import messages
from privet.deployment.silo.connection import Connection
from privet.wire.transport import ANSWER, HEAD, pack


def model(size: int) -> RecordDict:
    return RecordDict({"model": ArrayRecord({"a": Array(np.arange(size, dtype=np.float32))})})


def head_of_next(connection: Connection) -> Message:
    while (found := connection.next()) is None:
        pass
    return found[0]


def send_the_head_of_a_reply(client: httpx.Client, request: Message) -> None:
    with no_object_id_recompute():
        reply = echo(request)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        pushed = PushMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
    sent = client.post(f"/privet/v1/{ANSWER}", content=pack({HEAD: pushed.SerializeToString()}))
    assert sent.status_code == 200


@pytest.mark.parametrize("size", [5, 2_000_000])
def test_a_message_that_was_lost_with_a_silo_is_delivered_again(
    project: GateProject, server: LiveServer, size: int
) -> None:
    with project.connection("north") as first, server.run() as grid:
        sent = grid.push_messages([server.message("north", content=model(size))])
        head_of_next(first)
        first._stop.set()
        with project.connection("north") as second:
            answer_once(second, echo)
            (reply,) = grid.pull_messages(sent)
        assert reply.content["model"]["a"].numpy().size == size


def test_what_a_silo_answers_as_it_starts_is_not_delivered_again(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train a second time, and pay for it a second time."""
    monkeypatch.setattr(messages, "_HOLD", 0.1)
    with project.connection("north") as first, server.run() as grid:
        sent = grid.push_messages([server.message("north")])
        lost = head_of_next(first)
        first._stop.set()
        with project.connection("north") as second:
            second.reply(Message(Error(code=0, reason="lost"), reply_to=lost), to=lost)
            assert [second.next() for _ in range(3)] == [None] * 3
            assert [reply.error.reason for reply in grid.pull_messages(sent)] == ["lost"]


def test_a_reply_that_was_cut_off_half_way_is_not_waited_for(
    project: GateProject, server: LiveServer
) -> None:
    replies: list[Message] = []

    def ask() -> None:
        replies.extend(grid.send_and_receive([message], timeout=60))

    with project.connection("north") as first, server.run() as grid:
        message = server.message("north", content=model(1000))
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        lost = head_of_next(first)
        with project.http("north") as client:
            send_the_head_of_a_reply(client, first.fetch(lost, get_object_tree(message)))
        time.sleep(1.5)  # the coordinator has seen that the reply begins to come
        first._stop.set()
        with project.connection("north"):
            asking.join(timeout=10)
        assert [reply.has_error() for reply in replies] == [True]
    assert len(server.link.state.object_store) == 0
