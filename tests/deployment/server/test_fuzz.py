"""Requests that make no sense, most of them signed by a real party: none breaks a server."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from google.protobuf.message import Message as Proto

from gate_project import GateProject, LiveServer, echo, healthy_exchange
from privet.deployment.parties.orders import Order
from privet.deployment.server import messages, routes
from privet.experiment import Experiment
from privet.wire.transport import ANSWER, HEAD, NEXT, pack

_JUNK: tuple[Any, ...] = (None, True, -1, 1e308, 2**70, "", "\ud800", "x" * 5000, [], {}, [[[]]])


class Noise:
    """Requests to mutate, and the mutations, from one seed."""

    def __init__(self, project: GateProject, seed: int) -> None:
        self.project, self.draw = project, random.Random(seed)
        made = Order.create(
            Experiment.from_mapping({"task": "digits"}), project="lungs", requester="ana"
        )
        self.order = made.signed(project.key("ana"))
        self.models: dict[str, Proto] = {}
        self.parts: dict[str, bytes] = {}

    def body(self, proto: Proto) -> bytes:
        """`proto` with fields changed, or its bytes, or neither."""
        changed = type(proto)()
        changed.CopyFrom(proto)
        if self.draw.random() < 0.6:
            self.change(changed)
        raw = bytearray(changed.SerializeToString())
        if self.draw.random() < 0.4:
            for _ in range(self.draw.randint(1, 4)):
                if raw:
                    raw[self.draw.randrange(len(raw))] = self.draw.randrange(256)
        return bytes(raw[: self.draw.randint(0, len(raw))] if self.draw.random() < 0.1 else raw)

    def change(self, proto: Proto) -> None:
        fields = [field for field in proto.DESCRIPTOR.fields if field.name != "node"]
        for field in self.draw.sample(fields, min(len(fields), self.draw.randint(1, 2))):
            value = getattr(proto, field.name)
            if field.message_type is not None:
                if not field.is_repeated:
                    self.change(value)
                elif len(value) and self.draw.random() < 0.8:
                    self.change(value[0])
                elif self.draw.random() < 0.5:
                    proto.ClearField(field.name)
                else:
                    value.add()
            elif field.is_repeated:
                value.append(self.scalar(field.type))
            else:
                setattr(proto, field.name, self.scalar(field.type))

    def scalar(self, kind: int) -> Any:
        draw = self.draw
        if kind in (1, 2):
            return draw.choice([0.0, -1.0, float("nan"), float("inf"), 1e300, 5.0])
        if kind == 8:
            return draw.random() < 0.5
        if kind == 9:
            return draw.choice(["", "0" * 64, "f" * 64, "ü", "x" * 3000, "../..", "\x00"])
        if kind == 12:
            return draw.randbytes(draw.choice([0, 1, 30, 3000]))
        unsigned = kind in (4, 6, 7, 13)
        small = kind in (5, 13, 14, 15, 17)
        return draw.choice([0, 1] if small else [0, 1, 2**63 if unsigned else -(2**62)])

    def text(self) -> str:
        """Something like an order."""
        whole = json.loads(self.order)
        where = whole if self.draw.random() < 0.3 else whole["order"]
        key = self.draw.choice([*where, "more"])
        where[key] = self.draw.choice(_JUNK)
        return json.dumps(whole)

    def ask(self, clients: dict[str, httpx.Client]) -> httpx.Response:
        kind = self.draw.random()
        route = self.draw.choice([*self.models])
        path = f"/privet/v1/{route}" if route in (NEXT, ANSWER) else f"/v1/fleet/{route}"
        if kind < 0.65:
            body = self.body(self.models[route])
            if route == ANSWER:
                body = pack({HEAD: body, **(self.parts if self.draw.random() < 0.5 else {})})
            headers = self.project.node_headers("north")
            if self.draw.random() < 0.05:
                headers[self.draw.choice([*headers])] = "".join(self.draw.choices("a%é=;", k=9))
            return clients["north"].post(path, content=body, headers=_raw(headers))
        if kind < 0.85:
            job = self.draw.choice(["0" * 12, "..", "%2e%2e", "a" * 3000, "%00"])
            path = self.draw.choice(
                ["jobs", f"jobs/{job}", f"jobs/{job}/log?from={job}", f"jobs/{job}/files/{job}",
                 f"jobs/{job}/cancel", f"jobs/{job}/history?from=x", "nowhere"]
            )  # fmt: skip
            method = self.draw.choice(["GET", "POST", "PUT"]) if path != "jobs" else "POST"
            return clients["ana"].request(method, f"/privet/v1/{path}", content=self.text())
        junk = self.draw.randbytes(self.draw.randint(0, 300))
        headers = {"privet-signature": junk.replace(b"\r", b"").replace(b"\n", b"").strip(b" \t\0")}
        return clients[""].post(path, content=junk, headers=_clean(headers))


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]


def _clean(headers: dict[str, bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (k.encode(), bytes(c for c in v if c == 9 or 32 <= c != 127).strip(b" \t"))
        for k, v in headers.items()
    ]


@pytest.fixture
def clients(project: GateProject, server: LiveServer) -> Iterator[dict[str, httpx.Client]]:
    made = {name: project.http(name or None) for name in ("", "ana", "north")}
    yield made
    for client in made.values():
        client.close()


def models(project: GateProject, server: LiveServer, asked: Any) -> dict[str, Proto]:
    """A sound request for every route of a silo; `asked` is a message that waits for an answer."""
    node, run = Node(node_id=server.node("north")), asked.metadata.run_id
    with no_object_id_recompute():
        reply = echo(asked)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        push = fleet_pb2.PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.5],
        )
    names = {"node": node, "run_id": run}
    content = reply.deflate()
    public: Any = load_ssh_public_key(project.parties().named("north").node_key.encode())
    return {
        "activate-node": fleet_pb2.ActivateNodeRequest(
            public_key=public_key_to_bytes(public), heartbeat_interval=10
        ),
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(
            node=node, heartbeat_interval=10
        ),
        NEXT: fleet_pb2.PullMessagesRequest(node=node),
        ANSWER: push,
        "get-run": run_pb2.GetRunRequest(**names),
        "push-object": message_pb2.PushObjectRequest(
            **names, object_id=reply.object_id, object_content=content, session_id="x"
        ),
        "pull-object": message_pb2.PullObjectRequest(**names, object_id=asked.metadata.message_id),
        "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest(
            **names, message_object_id=asked.metadata.message_id
        ),
    }


@pytest.mark.parametrize("requests", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nonsense_is_answered_and_neither_breaks_nor_swells_a_server(
    project: GateProject,
    server: LiveServer,
    clients: dict[str, httpx.Client],
    monkeypatch: pytest.MonkeyPatch,
    requests: int,
) -> None:
    monkeypatch.setattr(messages, "_HOLD", 0.0)
    monkeypatch.setattr(routes, "_HOLD", 0.0)
    noise, counts = Noise(project, seed=requests), Counter[int]()
    before = 0
    with project.connection("north") as connection, server.run() as grid:
        grid.push_messages([server.message("north")])
        while (found := connection.next()) is None:
            pass
        asked = connection.fetch(*found)
        noise.models = models(project, server, asked)
        with no_object_id_recompute():
            whole = get_all_nested_objects(echo(asked))
            noise.parts = {name: part.deflate() for name, part in whole.items()}
        for number in range(requests):
            answer = noise.ask(clients)
            counts[answer.status_code] += 1
            assert answer.status_code < 500, (answer.request.url, answer.request.content[:500])
            if number == 200:
                before = psutil.Process().memory_info().rss
    assert psutil.Process().memory_info().rss - before < 50e6
    assert counts[200] > requests // 50, "some get through to Flower and are sound"
    assert counts[400] > requests // 50
    assert counts[403] > requests // 50
    assert server.store.all() == []
    healthy_exchange(project, server)
