"""Bells between the threads of a server, so that nobody polls: a message for a node, a reply."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterable


class Bells:
    """Rung from any thread; nodes wait in the server's event loop, the coordinator in a thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nodes: dict[int, asyncio.Semaphore] = {}
        self._lock, self._reply = threading.Lock(), threading.Event()
        self._answered: set[str] = set()
        self.closing = False
        """Whether the server is going down: nobody is to be kept waiting."""

    def ring(self, nodes: Iterable[int]) -> None:
        """A message waits for each of these nodes."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._count, Counter(nodes))

    def ring_reply(self, to: str = "") -> None:
        """A reply `to` a message begins to come, or something else that the coordinator should
        look at."""
        with self._lock:
            self._answered |= {to} - {""}
        self._reply.set()

    def wait_for_reply(self, seconds: float) -> set[str]:
        """Return at the next `ring_reply`, or at one since the last return, or after `seconds`:
        with the messages whose replies began to come since then."""
        self._reply.wait(seconds)
        self._reply.clear()
        with self._lock:
            answered, self._answered = self._answered, set()
        return answered

    async def wait_for_message(self, node: int, seconds: float) -> None:
        """Return once for each message, or after `seconds`; at once at a node's first call."""
        self._loop = asyncio.get_running_loop()
        if self.closing:
            return
        waiting = self._nodes.setdefault(node, asyncio.Semaphore())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting.acquire(), seconds)

    def close(self) -> None:
        """Let everybody go who waits, and keep nobody waiting from now on."""
        self.closing = True
        self.ring(list(self._nodes))

    def _count(self, messages: Counter[int]) -> None:
        for node, many in messages.items():
            waiting = self._nodes.setdefault(node, asyncio.Semaphore())
            for _ in range(many):
                waiting.release()
