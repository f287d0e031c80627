"""Bells between the threads of a server, so that nobody polls: a message for a node, a reply."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable


class Bells:
    """Rung from any thread; nodes wait in the server's event loop, the coordinator in a thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nodes: dict[int, asyncio.Event] = {}
        self._reply = threading.Event()
        self.closing = False
        """Whether the server is going down: nobody is to be kept waiting."""

    def ring(self, nodes: Iterable[int]) -> None:
        """Messages wait for these nodes."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._set, list(nodes))

    def ring_reply(self) -> None:
        """Part of a reply came, or something else that the coordinator should look at."""
        self._reply.set()

    def wait_for_reply(self, seconds: float) -> None:
        """Return at the next `ring_reply`, or at one since the last return, or after `seconds`."""
        self._reply.wait(seconds)
        self._reply.clear()

    async def wait_for_message(self, node: int, seconds: float) -> None:
        """As `wait_for_reply`, of one node; returns at once at its first call."""
        self._loop = asyncio.get_running_loop()
        if self.closing:
            return
        if node not in self._nodes:
            self._nodes[node] = asyncio.Event()
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nodes[node].wait(), seconds)
        self._nodes[node].clear()

    def close(self) -> None:
        """Let everybody go who waits, and keep nobody waiting from now on."""
        self.closing = True
        self.ring(list(self._nodes))

    def _set(self, nodes: list[int]) -> None:
        for node in nodes:
            self._nodes.setdefault(node, asyncio.Event()).set()
