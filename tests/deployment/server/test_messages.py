"""The next message and the answer to it: what two requests carry, and who may send them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)

from gate_project import GateProject, LiveServer, answer_once, echo, healthy_exchange
from privet.deployment.server import flower, messages
from privet.deployment.server.grid import Notifier
from privet.deployment.server.objects import ObjectsOnDisk
from privet.deployment.silo import connection as silo_side
from privet.deployment.silo.connection import Connection, RunOver
from privet.wire.transport import ANSWER, HEAD, NEXT, pack, unpack


@pytest.fixture
def north(project: GateProject, server: LiveServer) -> Iterator[httpx.Client]:
    with project.http("north") as client:
        yield client


def model(*sizes: int) -> RecordDict:
    """Arrays of so many float32 values, no two of them equal."""
    arrays = {f"a{n}": Array(np.arange(n, n + size, dtype=np.float32)) for n, size in
              enumerate(sizes)}  # fmt: skip
    return RecordDict({"model": ArrayRecord(arrays)})


def counting(connection: Connection) -> Counter[str]:
    """What a silo asks of the server from now on."""
    asked: Counter[str] = Counter()

    def count(response: httpx.Response) -> None:
        asked[response.request.url.path.split("/", 3)[-1]] += 1

    for fleet in (connection._fleet, connection._pulse):
        fleet._client.event_hooks["response"].append(count)
    return asked


def answer_to(message: Message) -> tuple[PushMessagesRequest, dict[str, bytes]]:
    """What a silo sends, and the parts of it."""
    with no_object_id_recompute():
        reply = echo(message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        pushed = PushMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        return pushed, {n: part.deflate() for n, part in get_all_nested_objects(reply).items()}


def body(pushed: PushMessagesRequest, parts: dict[str, bytes]) -> bytes:
    return pack({HEAD: pushed.SerializeToString(), **parts})


def taken(connection: Connection) -> Message:
    while (found := connection.next()) is None:
        pass
    return connection.fetch(*found)


def test_a_small_round_is_two_requests(project: GateProject, server: LiveServer) -> None:
    with project.connection("north") as connection, server.run() as grid:
        asked = counting(connection)
        for _ in range(3):
            sent = grid.push_messages([server.message("north", content=model(10, 650))])
            answer_once(connection, echo)
            (reply,) = grid.pull_messages(sent)
            assert np.array_equal(reply.content["model"]["a1"].numpy(), np.arange(1.0, 651.0))
        assert asked == {NEXT: 3, ANSWER: 3}
        assert len(server.link.state.object_store) == 0


@pytest.mark.parametrize(
    "sizes", [(1_000_000, 10), (220_000,) * 11], ids=["a large part", "many small parts"]
)
def test_what_is_too_large_for_one_request_comes_all_the_same(
    project: GateProject, server: LiveServer, sizes: tuple[int, ...]
) -> None:
    with project.connection("north") as connection, server.run() as grid:
        asked = counting(connection)
        thread = threading.Thread(target=answer_once, args=(connection, echo), daemon=True)
        thread.start()
        messages = [server.message("north", content=model(*sizes))]
        (reply,) = grid.send_and_receive(messages, timeout=30)
        thread.join(timeout=10)
        for n, size in enumerate(sizes):
            expected = np.arange(n, n + size, dtype=np.float32)
            assert np.array_equal(reply.content["model"][f"a{n}"].numpy(), expected)
        assert asked["pull-object"] >= 1
        assert asked["push-object"] >= 2
        assert len(server.link.state.object_store) == 0


def test_no_message_can_be_had_before_all_its_parts_are_there(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silo that asked in that moment had its message marked as delivered, and got nothing."""
    early: list[object] = []
    put = ObjectsOnDisk.put

    def put_and_look(self: ObjectsOnDisk, name: str, content: bytes) -> None:
        early.extend(server.link.next_message(server.node(silo)) for silo in ("north", "south"))
        put(self, name, content)

    with (
        project.connection("north") as first,
        project.connection("south") as second,
        server.run() as grid,
    ):
        with monkeypatch.context() as during:
            during.setattr(ObjectsOnDisk, "put", put_and_look)
            both = [server.message(silo, content=model(5)) for silo in ("north", "south")]
            sent = list(grid.push_messages(both))
        assert early == [None] * len(early) != []
        for connection in (first, second):
            answer_once(connection, echo)
        assert [reply.has_error() for reply in grid.pull_messages(sent)] == [False, False]


def test_an_answer_may_be_sent_again_until_it_was_read(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    with project.connection("north") as connection, server.run() as grid:
        sent = grid.push_messages([server.message("north", content=model(5))])
        again = body(*answer_to(taken(connection)))
        for _ in range(2):
            assert north.post(f"/privet/v1/{ANSWER}", content=again).status_code == 200
        assert len(list(grid.pull_messages(sent))) == 1
        assert north.post(f"/privet/v1/{ANSWER}", content=again).status_code == 410
        assert len(server.link.state.object_store) == 0


def test_what_nobody_answers_in_time_is_forgotten(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    with project.connection("north") as connection, server.run() as grid:
        question = [server.message("north", content=model(5))]
        asked: list[Message] = []
        thread = threading.Thread(target=lambda: asked.append(taken(connection)), daemon=True)
        thread.start()
        assert list(grid.send_and_receive(question, timeout=1.0)) == []
        thread.join(timeout=10)
        assert len(server.link.state.object_store) == 0
        late = body(*answer_to(asked[0]))
        assert north.post(f"/privet/v1/{ANSWER}", content=late).status_code == 410
        assert len(server.link.state.object_store) == 0


def nonsense(pushed: PushMessagesRequest, parts: dict[str, bytes]) -> Iterator[bytes]:
    yield from (b"", b"\n", b"{}\n", b"[" * 9999 + b"\n", b"\xff\n", pack({}), pack({HEAD: b""}))
    yield pack({HEAD: b"\x0a\xff\xff\xff\xff\x0f"})
    yield body(pushed, dict.fromkeys(parts, b"another"))
    for name in ("", "0" * 63, "\x00" * 64, "../x", "x" * 9999):
        wrong = PushMessagesRequest()
        wrong.CopyFrom(pushed)
        wrong.message_object_trees[0].children.append(ObjectTree(object_id=name))
        yield body(wrong, {**parts, name: b"x"})
        yield body(wrong, parts)
    for run in (0, 1, 2**64 - 1):
        wrong = PushMessagesRequest()
        wrong.CopyFrom(pushed)
        wrong.messages_list[0].metadata.run_id = run
        yield body(wrong, parts)
        yield body(wrong, {})


def test_no_answer_is_a_servers_fault_and_a_wrong_one_leaves_nothing_behind(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    with project.connection("north") as connection, server.run() as grid:
        sent = grid.push_messages([server.message("north", content=model(5))])
        pushed, parts = answer_to(taken(connection))
        there = len(server.link.state.object_store)
        for wrong in nonsense(pushed, parts):
            answer = north.post(f"/privet/v1/{ANSWER}", content=wrong)
            assert answer.status_code in (400, 410), wrong[:200]
            assert len(server.link.state.object_store) == there
        assert north.post(f"/privet/v1/{ANSWER}", content=body(pushed, parts)).status_code == 200
        assert len(list(grid.pull_messages(sent))) == 1
    healthy_exchange(project, server)


def test_parts_that_nobody_asked_for_are_not_kept(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    with project.connection("north") as connection, server.run() as grid:
        sent = grid.push_messages([server.message("north", content=model(5))])
        pushed, parts = answer_to(taken(connection))
        there = len(server.link.state.object_store)
        more = {get_object_id(b"x"): b"x", "no name": b"y"}
        whole = body(pushed, {**parts, **more})
        assert north.post(f"/privet/v1/{ANSWER}", content=whole).status_code == 200
        assert len(server.link.state.object_store) <= there + len(parts)
        assert len(list(grid.pull_messages(sent))) == 1
        assert len(server.link.state.object_store) == 0


@pytest.mark.parametrize("route", [NEXT, ANSWER])
def test_messages_are_for_silos(project: GateProject, server: LiveServer, route: str) -> None:
    # The gate's own words: the route behind it says 403 as well, but only once the body is read.
    for name, reason in ((None, "missing or malformed"), ("ana", "may not do this")):
        with project.http(name) as client:
            refused = client.post(f"/privet/v1/{route}", content=pack({}))
        assert (refused.status_code, reason in refused.text) == (403, True), refused.text


def test_to_ask_for_messages_is_a_sign_of_life_and_no_other_is_given(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_HOLD", 0.1)
    monkeypatch.setattr(silo_side, "_BEAT", 0.2)
    beat, node = "send-node-heartbeat", server.node("north")
    with project.connection("north") as connection:
        asked, end = counting(connection), time.monotonic() + 1.5
        before = server.link.status([node])[node].online_until or 0.0
        while time.monotonic() < end:
            assert connection.next() is None
        after = server.link.status([node])[node].online_until or 0.0
        assert after > before + 1.0
        assert beat not in asked
        while beat not in asked:  # it is at work: the server hears of it all the same
            assert time.monotonic() < end + 3.0
            time.sleep(0.05)


def test_a_question_that_came_with_nothing_is_answered_with_nothing(
    project: GateProject,
    server: LiveServer,
    north: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "_HOLD", 0.05)
    for junk in (b"", b"x" * 1000):
        parts, _ = unpack(north.post(f"/privet/v1/{NEXT}", content=junk).content)
        assert PullMessagesResponse.FromString(parts[HEAD]) == PullMessagesResponse()


def test_a_node_is_rung_once_for_each_message() -> None:
    notifier = Notifier()

    async def calls(seconds: float) -> int:
        """How often it returned, other than for the time."""
        count, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.01:
            await notifier.wait_for_message(7, left)
            count += time.monotonic() < end - 0.01
        return count

    async def everything() -> list[int]:
        found: list[Any] = [await calls(0.1)]
        notifier.notify([7, 7, 8])
        found.append(await calls(0.1))
        return [*found, await calls(0.1)]

    assert asyncio.run(everything()) == [1, 2, 0]


def test_a_coordinator_is_told_which_replies_begin_to_come() -> None:
    notifier = Notifier()
    notifier.notify_reply("a")
    notifier.notify_reply("b")
    notifier.notify_reply()
    assert notifier.wait_for_reply(0.0) == {"a", "b"}
    assert notifier.wait_for_reply(0.01) == set()
    threading.Timer(0.05, notifier.notify_reply, ["c"]).start()
    assert notifier.wait_for_reply(5.0) == {"c"}


# --- what a silo may have a server keep


def zeros(size: int, *, says: int | None = None) -> RecordDict:
    """An array of equal pieces, of which one is sent; `says`: the size that it claims to have."""
    shape = (size if says is None else says,)
    array = Array(dtype="uint8", shape=shape, stype="bytes", data=bytes(size))
    return RecordDict({"model": ArrayRecord({"a": array})})


@pytest.mark.parametrize(
    ("content", "is_read"),
    [(zeros(5_242_880), True), (zeros(8 * 5_242_880), False), (zeros(6_000_000, says=10), False)],
    ids=["as large as may be", "more than the job's model", "more than it says itself"],
)
def test_an_answer_grows_no_larger_than_it_may(
    project: GateProject,
    server: LiveServer,
    monkeypatch: pytest.MonkeyPatch,
    content: RecordDict,
    is_read: bool,
) -> None:
    monkeypatch.setattr(server.link, "allowance", 8_000_000)
    written: list[int] = []
    monkeypatch.setattr(flower, "paged_join", counting_join(written))
    with project.connection("north") as connection, server.run() as grid:
        thread = threading.Thread(
            target=answer_once,
            args=(connection, lambda message: Message(content, reply_to=message)),
            daemon=True,
        )
        thread.start()
        (reply,) = grid.send_and_receive([server.message("north")], timeout=20)
        thread.join(timeout=10)
        assert reply.has_error() is not is_read
        assert sum(written) <= 8_000_000
        assert len(server.link.state.object_store) == 0


def counting_join(written: list[int]) -> Any:
    def join(parts: Any) -> bytes:
        whole = bytearray()
        for part in parts:
            written.append(len(part))
            whole += part
        return bytes(whole)

    return join


def test_a_silo_has_a_server_keep_no_more_than_its_share(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in one request nor part by part, whatever it claims to answer."""
    monkeypatch.setattr(server.link, "allowance", 3_000_000)
    with project.connection("north") as connection, server.run() as grid:
        grid.push_messages([server.message("north")])
        message = taken(connection)
        too_much = Message(model(1_500_000), reply_to=message)
        with pytest.raises(RunOver, match="at most"):
            connection.reply(too_much, to=message)
        kept = server.link.state.object_store
        assert sum(len(kept.get(name) or b"") for name in kept.store) <= 3_000_000


def test_many_small_parts_are_no_way_around_it(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.link, "allowance", 1_000_000)
    with project.connection("north") as connection, server.run() as grid:
        grid.push_messages([server.message("north")])
        message = taken(connection)
        with pytest.raises(RunOver, match="at most"):
            connection.reply(Message(model(*[100_000] * 10), reply_to=message), to=message)


# --- what is lost on the way


def test_a_message_whose_connection_broke_is_sent_again(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    """Taken for a silo that never had it: it would be waited for until its time was over."""
    with project.connection("north") as connection, server.run() as grid:
        first = grid.push_messages([server.message("north")])
        answer_once(connection, echo)
        (_,) = grid.pull_messages(first)
        sent = grid.push_messages([server.message("north")])
        # Somebody else's eyes see the answer: to the silo the connection broke.
        lost = north.post(f"/privet/v1/{NEXT}", json={"had": connection._had})
        assert PullMessagesResponse.FromString(unpack(lost.content)[0][HEAD]).messages_list
        answer_once(connection, echo)
        (reply,) = grid.pull_messages(sent)
        assert not reply.has_error()


def test_a_message_that_a_silo_has_is_not_sent_again(
    project: GateProject, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_HOLD", 0.1)
    with project.connection("north") as connection, server.run() as grid:
        grid.push_messages([server.message("north")])
        assert connection.next() is not None
        assert [connection.next() for _ in range(3)] == [None] * 3


def test_nothing_stays_of_a_reply_that_came_too_late(
    project: GateProject, server: LiveServer, north: httpx.Client
) -> None:
    """Its head and half of its parts are there when its time is over; the rest is not taken."""
    with project.connection("north") as connection, server.run() as grid:
        replies: list[Message] = []

        def ask() -> None:
            message = server.message("north")
            replies.extend(grid.send_and_receive([message], timeout=1.5))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        message = taken(connection)
        late = Message(model(1_500_000), reply_to=message)
        push, held = connection._push, threading.Event()

        def slowly(*arguments: Any) -> None:
            push(*arguments)
            asking.join(timeout=20)
            held.set()

        connection._push = slowly  # type: ignore[method-assign]
        with pytest.raises(RunOver):
            connection.reply(late, to=message)
        assert held.is_set()
        assert replies == []
        assert len(server.link.state.object_store) == 0
