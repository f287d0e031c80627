"""HTTP/1.1 as uvicorn speaks it, with limits to how long and how large the unknown may be.

uvicorn itself waits for ever for the rest of a request, and keeps a head however large it grows:
without these limits anybody could fill the server's memory, or hold all its connections.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 1 << 16
HEAD_SECONDS = 20.0
WHOLE_SECONDS = 150.0
"""From the end of a request's head to that of its body; the gate gives up before."""


class Patient(HttpToolsProtocol):
    """One connection, closed when a request's head or its whole takes too long."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head = 0
    """Bytes of the present head, but for those that came with its first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first head."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take more of a request, unless its head is too large."""
        began = self._in_head
        super().data_received(data)
        if began and self._in_head:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._wait(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head = False
        self._wait(WHOLE_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is complete."""
        self._wait(None)
        super().on_message_complete()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self.transport.abort()
