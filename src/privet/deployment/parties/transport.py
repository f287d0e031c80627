"""HTTP in which every wait ends and every byte is counted, and the server's greeting.

The greeting (project, protocol, version) is what a server says of itself before anything is signed.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

import privet
from privet.deployment.parties.errors import OtherProtocol, PartiesError

QUIET = 30.0
"""Seconds without a byte after which a request has failed."""
WHOLE = 600.0
"""Seconds after which a request has failed, however its bytes trickle."""
_PIECE = 1 << 18


@dataclass
class Traffic:
    """Bytes of bodies that came and went."""

    received: int = 0
    sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, received: int = 0, sent: int = 0) -> None:
        """Count more, from any thread."""
        with self._lock:
            self.received += received
            self.sent += sent


class Transport(httpx.HTTPTransport):
    """Counts bodies as they travel, and has a time limit for a request as a whole.

    httpx itself limits the time between two bytes only.
    """

    def __init__(self, tls: ssl.SSLContext, traffic: Traffic, *, whole: float = WHOLE) -> None:
        # A connection is given up before a server or a proxy between would drop it half way.
        super().__init__(verify=tls, limits=httpx.Limits(keepalive_expiry=4.0))
        self._traffic, self._whole = traffic, whole

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; httpx.ReadTimeout when it takes too long as a whole."""
        end = time.monotonic() + self._whole
        body = request.content
        request.stream = _Stream(
            _pieces(body), request, end, lambda size: self._traffic.add(sent=size)
        )
        answer = super().handle_request(request)
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            extensions=answer.extensions,
            stream=_Stream(
                answer.stream, request, end, lambda size: self._traffic.add(received=size)
            ),
        )


def client(
    server: str,
    *,
    ca: Path,
    auth: httpx.Auth,
    traffic: Traffic | None = None,
    quiet: float = QUIET,
    whole: float = WHOLE,
) -> httpx.Client:
    """A client that speaks TLS 1.3 to `server`, and to nobody whom `ca` did not certify.

    Proxies that the environment names are not used: where a proxy stands, it stands at the server.
    """
    # With a file given, the system's authorities are not loaded: the project's is the only one.
    tls = ssl.create_default_context(cafile=str(ca))
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    return httpx.Client(
        base_url=server,
        auth=auth,
        timeout=quiet,
        trust_env=False,
        transport=Transport(tls, traffic or Traffic(), whole=whole),
    )


class _Stream(httpx.SyncByteStream):
    def __init__(
        self,
        inner: object,
        request: httpx.Request,
        end: float,
        count: Callable[[int], None],
    ) -> None:
        self._inner, self._request, self._end, self._count = inner, request, end, count

    def __iter__(self) -> Iterator[bytes]:
        for part in self._inner:  # type: ignore[attr-defined]
            self._count(len(part))
            if time.monotonic() > self._end:
                raise httpx.ReadTimeout("it took too long as a whole", request=self._request)
            yield part

    def close(self) -> None:
        if isinstance(self._inner, httpx.SyncByteStream):
            self._inner.close()


def _pieces(body: bytes) -> Iterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(view), _PIECE):
        # In pieces: one write of a whole model would be counted, and looked at for the time, only
        # once.
        yield bytes(view[start : start + _PIECE])


PROTOCOL = 4
"""Rises when a party of an older version could not be understood any more."""
_LONGEST = 64


def check_hello(told: object, *, project: str, server: str) -> None:
    """PartiesError, in one line, unless `server` is the project's and speaks as this privet does;
    OtherProtocol when it is the project's and does not.

    `told` is whatever somebody answered at that address.
    """
    if not isinstance(told, dict):
        raise PartiesError(f"what answers at {server} is no server of privet")
    theirs = {key: str(told.get(key))[:_LONGEST] for key in ("project", "protocol", "privet")}
    if told.get("project") != project:
        raise PartiesError(f"the server is of project {theirs['project']!r}, not {project!r}")
    if told.get("protocol") != PROTOCOL:
        raise OtherProtocol(
            f"the server speaks protocol {theirs['protocol']!r} (privet {theirs['privet']!r}), "
            f"this side {PROTOCOL} (privet {privet.__version__}): upgrade the older one"
        )
