"""A network between a silo and its server that can be told to fail."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Wire:
    """Forwards TCP connections to `port`; while `cut`, nothing passes and nobody is told.

    That is what a network partition looks like from both ends: no reset, only silence.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut = False
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                while self.cut and not self._closed:
                    time.sleep(0.05)
                with contextlib.suppress(OSError):
                    far = socket.create_connection(("127.0.0.1", self._to))
                    for here, there in ((near, far), (far, near)):
                        threading.Thread(target=self._pump, args=(here, there), daemon=True).start()

    def _pump(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                while self.cut and not self._closed:
                    time.sleep(0.05)
                there.sendall(data)
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_WR)
