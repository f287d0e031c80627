"""`privet server`: the link, the gate and the jobs in one process, until a signal ends it.

HTTP/1.1 has limits here to how long and how large a request of a stranger may be. uvicorn itself
waits for the rest of a request for ever and keeps a head however large it grows: anybody could fill
the server's memory, or hold all its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from privet.deployment.monitoring import SERVER, new_registry, serving_health, serving_metrics
from privet.deployment.parties import PartiesFile, ServerKit, host_port
from privet.deployment.parties.requests import Checking
from privet.deployment.server.condition import Condition, certificate_end
from privet.deployment.server.connections import (
    Connections,
    ListeningSocket,
    files_for,
    listening_sockets,
)
from privet.deployment.server.flower import Link
from privet.deployment.server.gate import Gate
from privet.deployment.server.grid import Notifier
from privet.deployment.server.jobs import JobStore
from privet.deployment.server.membership import Membership
from privet.deployment.server.metrics import ServerMetrics
from privet.deployment.server.routes import application
from privet.deployment.server.runner import Runner
from privet.deployment.server.viewers import PagePasses
from privet.errors import PrivetError
from privet.files import only_process
from privet.privacy.ledger.keys import refuse_open_key

HEAD_BYTES = 1 << 16
"""Of a request's head; uvicorn's httptools protocol has no limit of its own."""
HEAD_SECONDS = 10.0
"""From a connection, or a request's first byte, to the end of its head: who sends a byte now and
then, as Slowloris does, keeps a connection no longer."""
WHOLE_SECONDS = 150.0
"""From the end of a request's head to that of its body; the gate gives up before."""


class BoundedHttp(HttpToolsProtocol):
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


_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of malloc.h

log = logging.getLogger("privet.server")


def serve(kit: ServerKit, *, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called when silos and administrators may come.

    Jobs that an earlier start left unfinished are gone on with. Raises PrivetError when another
    process serves the folder, or a key, a certificate or the list of parties is unfit.
    """
    # First: it holds for what is allocated from then on.
    _give_memory_back()
    kit.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before anything is opened: link and jobs sweep away what they take for a dead server's.
    with only_process(kit.state / "server.pid"):
        link, notifier = Link(kit.state / "link.sqlite"), Notifier()
        file = PartiesFile(kit.parties, project_key=kit.project_key)
        members = Membership(file, link, folder=kit.state)
        members.current()
        store = JobStore(kit.state / "jobs")
        registry = new_registry()
        runner = Runner(
            store,
            members,
            link,
            notifier,
            tasks=kit.tasks,
            patience=kit.patience,
            longest=kit.longest_job_hours * 3600,
        )
        pages = PagePasses(members.current)
        connections = _connections(kit)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
            runner.start()
            ready()
            yield
            runner.stop()

        checking = Checking(members.current)
        gate = Gate(
            fleet=link.app(),
            own=application(
                store,
                runner,
                members,
                pages=pages,
                lifespan=lifespan,
                condition=lambda: {"health": condition.parts(), "ending": condition.ending()},
                refusals=lambda: checking.refusals,
            ),
            link=link,
            checking=checking,
            notifier=notifier,
            members=members,
            largest=kit.max_message_mb * 1_000_000,
            pages=pages,
            cancelled=lambda: store.cancelled,
            recognise=connections.recognise,
        )
        server = listener(gate, kit, connections)
        condition = Condition(
            runner=runner,
            members=members,
            link=link,
            connections=connections,
            state=kit.state,
            certificate=kit.certificate,
            least_disk_mb=kit.least_disk_mb,
            listening=lambda: server.started and not server.should_exit,
            refused=lambda: sum(gate.refused.values()),
        )
        runner.observe = ServerMetrics(registry, store, members, link, condition).watch

        with (
            serving_metrics(kit.metrics, registry),
            serving_health(kit.health, SERVER) as health,
            health.following(condition.warned_parts),
        ):
            server.run()


def _connections(kit: ServerKit) -> Connections:
    """Who may be connected, as far as there are files for it."""
    places = files_for(kit.max_connections)
    if places < kit.max_connections:
        log.warning(
            "the limit of open files leaves room for %d connections, not for max_connections "
            "= %d: raise LimitNOFILE (ulimit -n)",
            places,
            kit.max_connections,
        )
    return Connections(places, min(places, kit.max_connections_by_address))


def listener(gate: Gate, kit: ServerKit, connections: Connections | None = None) -> uvicorn.Server:
    """What listens at the kit's address from now on, and serves TLS 1.3 once it is run.

    PrivetError when that is not possible, or the key is one that others may read.
    """
    _check_certificate(kit.certificate, kit.certificate_key)
    if connections is None:
        connections = Connections(kit.max_connections, kit.max_connections_by_address)
    server = _Server(
        uvicorn.Config(
            gate,
            loop="privet.deployment.server.connections:Loop",
            # An address is believed when it is the connection's own.
            proxy_headers=False,
            ssl_certfile=str(kit.certificate),
            ssl_keyfile=str(kit.certificate_key),
            # No client certificates: requests are signed, which holds behind a proxy that ends TLS
            # as well.
            ssl_context_factory=_newest_tls,
            http=BoundedHttp,
            ws="none",
            # uvicorn's own would take logging over from `log_to_stderr`; its access log would keep
            # the tokens of page links, which stand in paths.
            log_config=None,
            access_log=False,
            server_header=False,
            # Longer than proxies keep a connection to a server (a minute, usually): a server that
            # is the first to close one fails the request that is on its way.
            timeout_keep_alive=75,
            # What is still under way after the waiting were let go is an upload, which its silo
            # sends again.
            timeout_graceful_shutdown=2,
        )
    )
    server.listening_sockets = listening_sockets(*host_port(kit.listen), connections)
    return server


def _give_memory_back() -> None:
    """Have glibc return large blocks to the system when they are free, whichever thread had them.

    By itself it raises the size from which it does so to that of a model, and keeps a heap for
    every thread that serves a request.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_ARENA_MAX, 2)


class _Server(uvicorn.Server):
    """Lets silos and administrators go who are being kept waiting, before it waits for them."""

    listening_sockets: Sequence[ListeningSocket] = ()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve whoever comes through the listening sockets."""
        super().run([*self.listening_sockets, *(sockets or [])])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at a signal."""
        gate = self.config.app
        assert isinstance(gate, Gate)
        gate.notifier.close()
        super().handle_exit(sig, frame)


def _newest_tls(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ARG001
    # Silos and administrators run privet, and browsers speak 1.3: nobody needs anything older.
    tls = default()
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    return tls


def _check_certificate(certificate: Path, key: Path) -> None:
    # uvicorn would end with a traceback.
    for path in (certificate, key):
        if not path.exists():
            raise PrivetError(f"{path} is missing; privet provision makes it")
    refuse_open_key(key)
    end = certificate_end(certificate)
    if end < datetime.now(UTC):
        log.error("%s ended on %s: silos will not connect", certificate, f"{end:%Y-%m-%d}")
