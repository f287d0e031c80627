"""The Flower grid of a run on real silos: messages through the link, replies as they come.

A notifier between the threads of a server spares both sides polling: there is a message for a node,
or a reply to one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from privet.deployment.server.flower import LiveRun, Reply
from privet.wire import ErrorReply


class Notifier:
    """Called from any thread; nodes wait in the event loop, the coordinator in a thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nodes: dict[int, asyncio.Semaphore] = {}
        self._lock, self._reply = threading.Lock(), threading.Event()
        self._answered: set[str] = set()
        self.closing = False
        """Whether the server is going down: nobody is to be kept waiting."""

    def notify(self, nodes: Iterable[int]) -> None:
        """A message waits for each of these nodes."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._count, Counter(nodes))

    def notify_reply(self, to: str = "") -> None:
        """A reply `to` a message begins to come, or something else that the coordinator should
        look at."""
        with self._lock:
            self._answered |= {to} - {""}
        self._reply.set()

    def wait_for_reply(self, seconds: float) -> set[str]:
        """Return at the next `notify_reply`, or at one since the last return, or after `seconds`:
        with the messages whose replies began to come since then."""
        self._reply.wait(seconds)
        # Cleared before the set is taken, and set after it is filled: a reply in between wakes once
        # too often, and never too seldom.
        self._reply.clear()
        with self._lock:
            answered, self._answered = self._answered, set()
        return answered

    async def wait_for_message(self, node: int, seconds: float) -> None:
        """Return once for each message, or after `seconds`; at once at a node's first call."""
        self._loop = asyncio.get_running_loop()
        if self.closing:
            return
        # A semaphore begins at 1. So a first question looks at once: of a message from before the
        # server or the silo was started nobody tells.
        waiting = self._nodes.setdefault(node, asyncio.Semaphore())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting.acquire(), seconds)

    def close(self) -> None:
        """Let everybody go who waits, and keep nobody waiting from now on."""
        self.closing = True
        self.notify(list(self._nodes))

    def _count(self, messages: Counter[int]) -> None:
        for node, many in messages.items():
            waiting = self._nodes.setdefault(node, asyncio.Semaphore())
            # One for each message, as a question takes one.
            for _ in range(many):
                waiting.release()


GRACE = 5.0
"""Seconds beyond the time limit of a message in which a silo may still be at it."""
# A stop and the end of a message's time come without a reply that would wake the coordinator.
_TICK = 1.0
_SWEEP = 2.0
"""Seconds from one look at all messages to the next: nobody rings for a node that went offline."""
_UPLOAD_LIMIT = 600.0
"""Seconds from the first sign of a reply to its last part."""

log = logging.getLogger("privet.server")


class Cancelled(Exception):  # noqa: N818 - somebody wanted it
    """The job was cancelled, or the server is going down."""


class LinkGrid(Grid):
    """Sends and receives for one live run; replies are read one at a time, and then forgotten."""

    def __init__(self, live: LiveRun, notifier: Notifier, *, stop: threading.Event) -> None:
        """`stop`: set to have every wait end with Cancelled."""
        self._live, self._notifier, self._stop = live, notifier, stop
        self._run = Run.create_empty(live.id)
        self.waiting_for: dict[int, str] = {}
        """The nodes whose reply is awaited, and to what type of message."""

    def set_run(self, run: Run) -> None:
        """Take over the information of another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Information on the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node (deprecated in Flower in favour of `Message`)."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online."""
        return self._live.nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the link and wake the nodes that they are for."""
        messages = list(messages)
        names = self._live.send(messages)
        self._notifier.notify(message.metadata.dst_node_id for message in messages)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have come so far, read."""
        return [self._live.read(reply) for reply in self._live.arrived(message_ids)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Replies as they come, until all are here or `timeout` seconds have passed.

        A node that is offline, or goes offline, answers with an error of Flower's. Cancelled when
        the run is to stop.
        """
        messages = list(messages)
        if not messages:
            return
        for message in messages:
            if timeout is not None:
                # Flower drops the reply to a message whose time is over; one that comes at the last
                # moment is to be read.
                message.metadata.ttl = timeout + GRACE
        names = list(self.push_messages(messages))
        # Without their content, which is on its way and need not be kept here as well.
        bare = [remove_content_from_message(message) for message in messages]
        del messages, message
        self.waiting_for = {m.metadata.dst_node_id: m.metadata.message_type for m in bare}
        try:
            sent = {name: each for name, each in zip(names, bare, strict=True) if name}
            yield from self._replies(sent, timeout)
        finally:
            self.waiting_for = {}

    def _replies(self, sent: dict[str, Message], timeout: float | None) -> Iterator[Message]:
        end = None if timeout is None else time.monotonic() + timeout
        coming: dict[str, tuple[Reply, float]] = {}
        told, swept = set(sent), time.monotonic()
        while sent:
            if self._stop.is_set():
                raise Cancelled
            over = end is not None and time.monotonic() >= end
            if over or time.monotonic() - swept >= _SWEEP:
                told, swept = set(sent), time.monotonic()
            for reply in self._live.arrived((told & sent.keys()) - coming.keys()):
                coming[reply.to] = reply, time.monotonic() + _UPLOAD_LIMIT
            here = [r for r, until in coming.values() if self._is_ready(r, until)]
            for reply in here:
                del coming[reply.to]
                request = sent.pop(reply.to)
                self.waiting_for.pop(request.metadata.dst_node_id, None)
                yield self._read(reply, request)
            # Once more round after the end: what arrived at the last moment counts.
            if over and not here:
                # A silo that comes back begins with the present.
                self._live.forget(sent, coming=[reply for reply, _ in coming.values()])
                return
            # Only replies that were told of are looked for: to ask for all, each time one comes,
            # would take time that grows with the square of the silos.
            told = self._notifier.wait_for_reply(0.0 if here else _TICK)

    def _is_ready(self, reply: Reply, until: float) -> bool:
        return self._live.is_here(reply) or self._live.is_lost(reply) or time.monotonic() > until

    def _read(self, reply: Reply, request: Message) -> Message:
        """The reply, in the name of whoever was asked: the link's own errors come in its own."""
        # Asked before it is read: reading forgets the reply, and whatever is not there looks lost.
        node, lost = request.metadata.dst_node_id, self._live.is_lost(reply)
        try:
            message = self._live.read(reply)
        except Exception as error:  # whatever a peer sends, the round goes on without it
            log.warning("a reply of node %s cannot be read: %s", node, error)
            told = ErrorReply("restart", "restarted") if lost else ErrorReply("app", "message")
            message = Message(Error(code=0, reason=str(told)), reply_to=request)
        message.metadata.__dict__["_src_node_id"] = node
        return message
