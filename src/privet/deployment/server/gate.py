"""The gate before everything that a server serves: who may ask for what.

Every request is signed by a party of the project, body included
(`privet.deployment.parties.requests`). Silos may use Flower's fleet routes, each under its own node
and for its own messages; administrators may use privet's own routes. A browser may read the live
page with the cookie of a link that a signed request asked for (`privet.deployment.server.viewers`).
Everything else that Flower could serve (its control and runtime routes, with which one may register
nodes and start runs) is not there. Nothing of a body is read before its maker is known to be
allowed to send it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PushObjectRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from privet.deployment.monitoring import STRANGERS
from privet.deployment.parties import Party
from privet.deployment.parties.requests import (
    CANCELS,
    PARTIES,
    SIGNATURE,
    START,
    Checking,
    Denied,
    OtherStart,
    matches,
)
from privet.deployment.server.flower import HEARTBEAT, Link, pem_of
from privet.deployment.server.grid import Notifier
from privet.deployment.server.membership import Membership
from privet.deployment.server.viewers import (
    ENTRY,
    PAGE,
    PRIVATE,
    PagePasses,
    cookie_in,
    is_page,
    set_cookie,
)
from privet.errors import PrivetError
from privet.wire.transport import ANSWER, NEXT, SMALL, TOGETHER

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PARTY = "privet.party"
"""Where a request's scope says who makes it."""
OWN = "/privet/v1/"
"""Where privet's own routes begin."""
HELLO = OWN + "hello"
CANCELLED = OWN + "cancelled"
LEDGER = OWN + "ledger"
_FLEET = "/v1/fleet/"
_PUSH = _FLEET + "push-object"
# Requests of names and numbers; an order, which `orders.LARGEST` keeps below a megabyte.
_SMALL, _OWN = 4096, 1 << 20
# The parts, and their head of names and sizes.
_TOGETHER = TOGETHER + (1 << 20)
_LONGEST_LENGTH = 20
"""Digits of a Content-Length, leading zeros too: `int` takes quadratic time for many."""
_PIECE = 1 << 18

log = logging.getLogger(STRANGERS)


class _Refused(Exception):  # noqa: N818 - an answer on its way
    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass(frozen=True)
class Gate:
    """An ASGI application before two others: Flower's fleet routes and privet's own."""

    fleet: App
    own: App
    link: Link
    checking: Checking
    notifier: Notifier
    members: Membership
    largest: int
    """Bytes of the largest part of a message."""
    body_seconds: float = 120.0
    """Within which a body must have come."""
    quiet_seconds: float = 20.0
    """Within which more of a body must come."""
    pages: PagePasses | None = None
    """Who may look at the live page; None: there is none."""
    cancelled: Callable[[], int] = int
    """Another number after every job that is cancelled."""
    recognise: Callable[[object], None] = lambda _: None
    """Told of the address, (host, port), from which a party's signed request came."""
    refused: Counter[int] = field(default_factory=Counter)
    """How many requests were answered with a reason instead, by status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it with a JSON object that says why."""
        if scope["type"] == "lifespan":
            await self.own(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except _Refused as refused:
                self.refused[refused.status] += 1
                await _answer(send, refused)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        # A browser has no key to sign with: the page goes by its cookie, before signatures are
        # looked for.
        if self.pages is not None and is_page(path):
            await self._page(self.pages, scope, send)
            return
        # Unsigned: whoever is refused for another start, version or clock must find out why.
        if path == HELLO and method == "GET":
            await self.own(scope, _nothing, send)
            return
        cap = self._cap(path, method)
        # Of a header that is repeated the first counts, as it does for Flower.
        headers = {name.decode("latin-1"): value for name, value in reversed(scope["headers"])}
        # By the head alone: a stranger can neither fill memory with a body nor reach a parser.
        party, digest = self._who(headers, scope)
        self.recognise(scope.get("client"))
        self._may(party, path)
        if path == _PUSH:
            cap = self._room(party, cap)
        body = await self._body(headers, receive, cap)
        if not matches(body, digest):
            raise _Refused(400, "the body is not what was signed")
        scope[PARTY] = party
        # Silos learn of a new list with the next answer, and need not ask for one.
        send = _told(send, PARTIES, lambda: self.members.current().version)
        send = _told(send, CANCELS, self.cancelled)
        if path.startswith(OWN):
            await self.own(scope, _once(body, receive), _in_pieces(send))
            return
        # In a thread, as are the checks below: parsing, and waits for the database, would hold up
        # everyone.
        await run_in_threadpool(self._check_node, party, headers)
        await self._fleet(path, body, scope, receive, send)

    async def _page(self, pages: PagePasses, scope: Scope, send: Send) -> None:
        """A link that begins a session, or the page for those who have one; nothing but GET."""
        if scope["method"] != "GET":
            raise _Refused(405, "the page can only be read", allow="GET")
        path = scope["path"]
        if path.startswith(ENTRY):
            cookie = pages.enter(path.removeprefix(ENTRY))
            if cookie is None:
                raise _Refused(403, "the link is used up or too old; privet page gives a new one")
            begun = {"location": PAGE, "set-cookie": set_cookie(cookie), **PRIVATE}
            await Response(status_code=303, headers=begun)(scope, _nothing, send)
            return
        told = [value for name, value in scope["headers"] if name == b"cookie"]
        if pages.viewer(cookie_in(b";".join(told).decode("latin-1"))) is None:
            raise _Refused(403, "the page is opened by the command privet page", **PRIVATE)
        await self.own(scope, _nothing, send)

    def _cap(self, path: str, method: str) -> int:
        """The most bytes that a body may have there."""
        if path.startswith(OWN):
            return _TOGETHER if path == OWN + ANSWER else _OWN
        caps = {
            "activate-node": _SMALL,
            "deactivate-node": _SMALL,
            "send-node-heartbeat": _SMALL,
            "get-run": _SMALL,
            "push-object": self.largest,
            "pull-object": _SMALL,
            "confirm-message-received": _SMALL,
        }
        cap = caps.get(path.removeprefix(_FLEET)) if path.startswith(_FLEET) else None
        if cap is None or method != "POST":
            raise _Refused(404, "there is nothing here")
        return cap

    def _room(self, party: Party, cap: int) -> int:
        """Before a byte of it is read: a part is held against what the silo has here already."""
        room = self.link.room(self.members.nodes.get(party.name, 0))
        # The part is wrapped in its name, its session and its run.
        return cap if room is None else min(cap, room + _SMALL)

    def _who(self, headers: dict[str, bytes], scope: Scope) -> tuple[Party, str]:
        query = scope.get("query_string", b"")
        target = scope.get("raw_path", scope["path"].encode()) + (b"?" + query if query else b"")
        signature = headers.get(SIGNATURE, b"").decode("latin-1")
        try:
            return self.checking.check(
                signature, method=scope["method"], target=target.decode("latin-1")
            )
        except OtherStart as denied:
            raise _Refused(409, str(denied), **{START: self.checking.start}) from None
        except Denied as denied:
            log.warning("refused: %s %r: %s", scope["method"], scope["path"][:200], denied)
            raise _Refused(403, str(denied)) from None

    def _may(self, party: Party, path: str) -> None:
        roles = {"silo"} if path.startswith(_FLEET) else {"admin"}
        if path == OWN + "parties":
            roles = {"silo", "admin"}
        elif path in (OWN + NEXT, OWN + ANSWER, CANCELLED, LEDGER):
            roles = {"silo"}
        if party.role not in roles:
            log.warning("refused: %s may not use %r", party, path[:200])
            raise _Refused(403, f"{party} may not do this")

    def _check_node(self, party: Party, headers: dict[str, bytes]) -> None:
        """The node key in Flower's own header must be this silo's, and admitted."""
        # Flower believes the node key, privet the identity key: both must be of the same silo.
        given = headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower(), b"")
        try:
            public = base64.b64decode(given, validate=True)
        except ValueError:
            public = b""
        if public != pem_of(party.node_key):
            raise _Refused(403, f"the node key is not that of {party}")

    async def _body(self, headers: dict[str, bytes], receive: Receive, cap: int) -> bytes:
        """At most `cap` bytes, which must keep coming."""
        length = headers.get("content-length", b"0")
        # A chunked body has no length that could be held against the cap before it is read.
        if "transfer-encoding" in headers or not length.isdigit():
            raise _Refused(411, "a body needs its Content-Length")
        if len(length) > _LONGEST_LENGTH or int(length) > cap:
            raise _Refused(413, f"at most {cap} bytes are taken here")
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_seconds):
                while True:
                    event = await asyncio.wait_for(receive(), self.quiet_seconds)
                    if event["type"] == "http.disconnect":
                        raise _Refused(400, "the body did not come whole")
                    body += event.get("body", b"")
                    if not event.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise _Refused(408, "the body came too slowly") from None

    async def _fleet(
        self, path: str, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        what = path.removeprefix(_FLEET)
        node = self.members.nodes.get(scope[PARTY].name)
        if node is None:
            raise _Refused(403, f"{scope[PARTY]} is not admitted")
        try:
            await run_in_threadpool(self._check_claims, what, body, node)
        except DecodeError:
            raise _Refused(400, "malformed") from None
        except Denied as denied:
            raise _Refused(403, str(denied)) from None
        except PrivetError as over:
            raise _Refused(410, str(over)) from None
        if what == "activate-node":
            await run_in_threadpool(self.link.forget_session, node)
            # What is delivered again was counted for the node that died: without this the new one
            # would wait.
            self.notifier.notify([node])
            self.notifier.notify_reply()
        await self.fleet(scope, _once(body, receive), _in_pieces(send))
        scope["state"].clear()  # Flower's idea of the body, which its cycles would keep
        if what == "push-object" and len(body) <= SMALL:
            self.notifier.notify_reply()  # the last part of a reply is small

    def _check_claims(self, what: str, body: bytes, node: int) -> None:
        """Flower takes a node at its word about whose messages these are, and for how long it
        counts as online after its last sign of life."""
        if what == "confirm-message-received":
            confirmed = ConfirmMessageReceivedRequest.FromString(body)
            self.link.run_of(confirmed.message_object_id, asked=node)
        elif what == "push-object":
            part = PushObjectRequest.FromString(body)
            self.link.count(node, {part.object_id: len(part.object_content)})
        elif what in ("activate-node", "send-node-heartbeat"):
            kind = ActivateNodeRequest if what == "activate-node" else SendNodeHeartbeatRequest
            if not 0 < kind.FromString(body).heartbeat_interval <= 6 * HEARTBEAT:
                raise _Refused(400, f"a heartbeat at least every {6 * HEARTBEAT:.0f} s")


def _in_pieces(send: Send) -> Send:
    """`send`, in small pieces.

    TLS keeps a buffer of the largest piece for as long as a connection lasts.
    """

    async def in_pieces(event: Event) -> None:
        body = event.get("body", b"")
        last = max(0, len(body) - 1) // _PIECE * _PIECE
        for start in range(0, last, _PIECE):
            piece = body[start : start + _PIECE]
            await send({"type": event["type"], "body": piece, "more_body": True})
        await send({**event, "body": body[last:]} if last else event)

    return in_pieces


def _once(body: bytes, receive: Receive) -> Receive:
    """The body again for the next application, and then whatever the connection says."""
    parts = [body]

    async def replay() -> Event:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return replay


def _told(send: Send, header: str, version: Callable[[], int]) -> Send:
    """`send`, with a number in every answer's head that is another one when there is news."""

    async def with_header(event: Event) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [
                *event.get("headers", []),
                (header.encode(), str(version()).encode()),
            ]
        await send(event)

    return with_header


async def _nothing() -> Event:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _answer(send: Send, refused: _Refused) -> None:
    body = json.dumps({"error": refused.reason}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    # Of these requests a body is still to come, of a size that is unknown or too large to read
    # away.
    headers |= {"connection": "close"} if refused.status in (408, 411, 413) else {}
    told = [(k.encode(), v.encode()) for k, v in (headers | refused.headers).items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": told})
    await send({"type": "http.response.body", "body": body})
