"""A server with the project's certificate that sends a silo whatever a test tells it to.

It speaks Flower's fleet protocol behind real TLS, checks nothing, and remembers what it was asked.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto, user_config_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from privet.deployment.parties import ServerKit
from privet.deployment.trial import free_port
from privet.simulations.grid import assume_identity
from privet.wire import Failure
from privet.wire.transport import ANSWER, HEAD, NEXT, pack, unpack

NODE = 77
_FLEET = "/v1/fleet/"

Trick = Callable[[Callable[..., Awaitable[None]]], Awaitable[None]]
"""Answers a request by itself, through ASGI's `send`."""


@dataclass
class HostileServer:
    kit: ServerKit
    hello: object
    port: int = field(default_factory=free_port)
    runs: dict[int, Run] = field(default_factory=dict)
    tricks: dict[str, Trick] = field(default_factory=dict)
    """What happens instead of an answer, by route without the beginning of its path."""
    asked: list[str] = field(default_factory=list)
    """The routes of all requests, in the same way."""
    waiting: deque[PullMessagesResponse] = field(default_factory=deque)
    beside: dict[str, bytes] = field(default_factory=dict)
    """Parts that come with every head; none of the message, so a silo asks for each by itself."""
    replies: list[Message] = field(default_factory=list)
    _objects: dict[str, bytes] = field(default_factory=dict)
    _coming: dict[str, Any] = field(default_factory=dict)

    def send(
        self,
        settings: Mapping[str, Any],
        content: RecordDict | None = None,
        *,
        kind: str = "query.enrol",
        run: int = 1,
        ttl: float = 30.0,
        fab: Mapping[str, str] | None = None,
    ) -> tuple[float, float]:
        """Have a message wait for the silo, of a run with these settings; its time and TTL."""
        config = user_config_to_proto(dict(settings))
        self.runs[run] = Run(run_id=run, override_config=config, **(fab or {}))
        assume_identity(run)
        message = Message(content or RecordDict(), NODE, kind, ttl=ttl)
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            tree = get_object_tree(message)
            for name, part in get_all_nested_objects(message).items():
                self._objects[name] = part.deflate()
            head = message_to_proto(remove_content_from_message(message))
        self.waiting.append(PullMessagesResponse(messages_list=[head], message_object_trees=[tree]))
        return message.metadata.created_at, message.metadata.ttl

    def answer(self, number: int, *, seconds: float = 20.0) -> Message:
        """The silo's reply number `number`, from 0, once it is here."""
        end = time.monotonic() + seconds
        while len(self.replies) <= number:
            assert time.monotonic() < end, f"no reply; it asked for {self.asked[-5:]}"
            time.sleep(0.01)
        return self.replies[number]

    def refusal(self, number: int) -> Failure:
        """The same, of a reply that is a refusal."""
        reply = self.answer(number)
        assert reply.has_error()
        return Failure.parse(reply.error.reason, silo="")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        path = scope["path"]
        name = path.removeprefix(_FLEET).removeprefix("/privet/v1/")
        self.asked.append(name)
        if name in self.tricks:
            await self.tricks[name](send)
        elif path == "/privet/v1/hello":
            text = self.hello if isinstance(self.hello, str) else json.dumps(self.hello)
            await whole(send, text.encode(), kind="application/json")
        elif path == "/privet/v1/parties":
            await whole(send, self.kit.parties.read_bytes(), kind="application/json")
        elif name == NEXT:
            head = (await self._next()).SerializeToString()
            await whole(send, pack({HEAD: head, **self.beside}))
        elif name == ANSWER:
            parts, _ = unpack(body)
            answer = self._reply_begins(PushMessagesRequest.FromString(parts.pop(HEAD)))
            for part, content in parts.items():
                self._reply_goes_on(PushObjectRequest(object_id=part, object_content=content))
                answer.objects_to_push.remove(part)
            await whole(send, answer.SerializeToString())
        elif path.startswith(_FLEET):
            answer = await self._fleet(name, body)
            if answer is None:
                await whole(send, b"{}", kind="application/json", status=404)
            else:
                await whole(send, answer.SerializeToString())

    async def _next(self) -> PullMessagesResponse:
        for _ in range(20):
            if self.waiting:
                return self.waiting.popleft()
            await asyncio.sleep(0.01)
        return PullMessagesResponse()

    async def _fleet(self, name: str, body: bytes) -> Any:
        if name == "activate-node":
            return ActivateNodeResponse(node_id=NODE)
        if name == "deactivate-node":
            return DeactivateNodeResponse()
        if name == "send-node-heartbeat":
            return SendNodeHeartbeatResponse(success=True)
        if name == "get-run":
            return GetRunResponse(run=self.runs[GetRunRequest.FromString(body).run_id])
        if name == "pull-object":
            content = self._objects.get(PullObjectRequest.FromString(body).object_id)
            return PullObjectResponse(
                object_found=content is not None,
                object_available=content is not None,
                object_content=content,
            )
        if name == "confirm-message-received":
            return ConfirmMessageReceivedResponse()
        if name == "push-object":
            return self._reply_goes_on(PushObjectRequest.FromString(body))
        return None

    def _reply_begins(self, request: PushMessagesRequest) -> PushMessagesResponse:
        tree = request.message_object_trees[0]
        names = [part.object_id for part in iterate_object_tree(tree)]
        self._coming = {"id": tree.object_id, "names": names, "parts": {}}
        return PushMessagesResponse(objects_to_push=names, session_id="s")

    def _reply_goes_on(self, request: PushObjectRequest) -> PushObjectResponse:
        self._coming["parts"][request.object_id] = request.object_content
        if len(self._coming["parts"]) == len(set(self._coming["names"])):
            reply = inflate_object_from_contents(self._coming["id"], self._coming["parts"])
            assert isinstance(reply, Message)
            self.replies.append(reply)
        return PushObjectResponse(stored=True)

    @contextmanager
    def serving(self) -> Iterator[None]:
        server = uvicorn.Server(
            uvicorn.Config(
                self,
                host="127.0.0.1",
                port=self.port,
                ssl_certfile=str(self.kit.certificate),
                ssl_keyfile=str(self.kit.certificate_key),
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=0,
            )
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=10)


async def whole(
    send: Any, body: bytes, *, kind: str = "application/protobuf", status: int = 200
) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def stalls(size: int = 1 << 20) -> Trick:
    """An answer of which nothing comes."""
    return trickles(0, 0.0, size=size)


def trickles(count: int, pause: float, *, size: int = 1 << 20) -> Trick:
    """An answer of which `count` bytes come, one every `pause` seconds, and then none."""

    async def trick(send: Any) -> None:
        headers = [
            (b"content-type", b"application/protobuf"),
            (b"content-length", str(size).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(count):
            await send({"type": "http.response.body", "body": b"\x00", "more_body": True})
            await asyncio.sleep(pause)
        await asyncio.sleep(30)

    return trick


def says(body: bytes, *, status: int = 200, kind: str = "application/protobuf") -> Trick:
    """Always the same answer."""

    async def trick(send: Any) -> None:
        await whole(send, body, kind=kind, status=status)

    return trick
