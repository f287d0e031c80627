"""What silos ask a server: the next message, and to take their answer to one.

These two are a whole round of a small model. Of a large one the parts that are too large to travel
together go through Flower's own routes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from privet.deployment.monitoring import STRANGERS
from privet.deployment.parties import Party
from privet.deployment.parties.requests import Denied
from privet.deployment.server.flower import HEARTBEAT, Link, TooMuch
from privet.deployment.server.gate import LEDGER, OWN, PARTY
from privet.deployment.server.grid import Notifier
from privet.deployment.server.ledgers import LedgerHeads
from privet.deployment.server.membership import Membership
from privet.errors import PrivetError
from privet.wire.transport import ANSWER, HEAD, NEXT, pack, unpack

_HOLD = 0.8 * HEARTBEAT
"""Seconds that a node's question for a message is held open at most while there is none.

Every answer to it is a sign of life, so a node that waits for work need not give another.
"""

log = logging.getLogger(STRANGERS)


@dataclass(frozen=True)
class Messages:
    """Two routes for silos; who may use them is decided before."""

    link: Link
    members: Membership
    notifier: Notifier
    ledgers: LedgerHeads

    def routes(self) -> list[Route]:
        """Both of them."""
        return [
            Route(OWN + NEXT, self.next, methods=["POST"]),
            Route(OWN + ANSWER, self.answer, methods=["POST"]),
            Route(LEDGER, self.ledger),
        ]

    async def ledger(self, request: Request) -> Response:
        """The last head of its ledger that the silo signed for, as it was written; or nothing."""
        seen = await run_in_threadpool(self.ledgers.seen, request.scope[PARTY])
        return Response(seen, media_type="text/plain")

    async def next(self, request: Request) -> Response:
        """The head of the next message with its small parts, or nothing after some seconds."""
        node = self._node(request)
        if node is None:
            return _no(403, "this silo is not admitted")
        # Read away, so that the next event can only be that the silo hung up.
        told = _told(await request.body())
        if told.get("ledger"):
            await run_in_threadpool(self._note, request.scope[PARTY], told["ledger"])
        gone = asyncio.ensure_future(request.receive())
        try:
            found = await self._wait(node, gone, told.get("had"))
        finally:
            gone.cancel()
        head, parts = found or (PullMessagesResponse(), {})
        body = pack({HEAD: head.SerializeToString(), **parts})
        return Response(body, media_type="application/octet-stream")

    async def answer(self, request: Request) -> Response:
        """A silo's answer, with its small parts or with all of them."""
        node = self._node(request)
        if node is None:
            return _no(403, "this silo is not admitted")
        try:
            parts, _ = unpack(await request.body())
            pushed = PushMessagesRequest.FromString(parts.pop(HEAD))
            taken = await run_in_threadpool(self._take, node, pushed, parts)
        except (ArithmeticError, DecodeError, LookupError, TypeError, ValueError) as error:
            log.warning("refused: an answer: %s: %.200r", type(error).__name__, str(error))
            return _no(400, "malformed")
        except Denied as denied:
            return _no(403, str(denied))
        except TooMuch as much:
            return _no(413, str(much))
        except PrivetError as error:
            return _no(410, str(error))
        self.notifier.notify_reply(pushed.messages_list[0].metadata.reply_to_message_id)
        return Response(taken.SerializeToString(), media_type="application/octet-stream")

    def _node(self, request: Request) -> int | None:
        return self.members.nodes.get(request.scope[PARTY].name)

    def _note(self, silo: Party, head: str) -> None:
        try:
            self.ledgers.note(silo, head)
        except (ValueError, OSError) as error:
            log.warning("the head of the ledger of %s is not kept: %s", silo.name, error)

    async def _wait(
        self, node: int, gone: asyncio.Future[Any], had: str | None
    ) -> tuple[PullMessagesResponse, dict[str, bytes]] | None:
        """Nothing is taken for a silo that hung up: it would be lost on this connection."""
        # Silos that were answered together would otherwise ask again together, for ever.
        hold = random.uniform(0.75 * _HOLD, _HOLD)  # noqa: S311 - spreads silos
        end = time.monotonic() + hold
        while True:
            left = max(0.0, end - time.monotonic())
            woken = asyncio.ensure_future(self.notifier.wait_for_message(node, left))
            await asyncio.wait({gone, woken}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                # What it was woken for is there for the next question.
                if not woken.cancel():
                    self.notifier.notify([node])
                return None
            found = await run_in_threadpool(partial(self.link.next_message, node, had=had))
            if found or self.notifier.closing or time.monotonic() >= end:
                return found

    def _take(
        self, node: int, pushed: PushMessagesRequest, parts: Mapping[str, bytes]
    ) -> PushMessagesResponse:
        """Flower takes a node at its word about whose answer this is, and to what."""
        (told,), (tree,) = pushed.messages_list, pushed.message_object_trees
        # Flower adds them to the run's; one NaN or infinity, and the sum is lost for good.
        if not all(0 <= seconds < math.inf for seconds in pushed.clientapp_runtime_list):
            raise ValueError("an answer takes some seconds, 0 or more")
        # By the id of its last part a reply is found and read: one that claims another's would be
        # read for it.
        if told.metadata.src_node_id != node or told.metadata.message_id != tree.object_id:
            raise Denied("a reply in another's name")
        run = self.link.run_of(told.metadata.reply_to_message_id, asked=node)
        if told.metadata.run_id != run:
            raise ValueError("a reply in another run")
        return self.link.answer(pushed, parts)


def _told(body: bytes) -> dict[str, str]:
    """What a silo says with its question; nothing for what it would not say."""
    try:
        told = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {}
    pairs = told.items() if isinstance(told, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _no(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
