"""`privet server`: the link, the gate and the jobs in one process, until a signal ends it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from privet.errors import PrivetError
from privet.exposition import new_registry, serving_metrics
from privet.health import SERVER, serving_health
from privet.one_process import only_process
from privet.parties import PartiesFile, ServerKit, host_port
from privet.parties.requests import Checking
from privet.server.link.bells import Bells
from privet.server.link.flower import Link
from privet.server.link.gate import Gate
from privet.server.link.jobs import JobStore
from privet.server.link.membership import Membership
from privet.server.link.metrics import ServerMetrics
from privet.server.link.pages import Pages
from privet.server.link.patience import Patient
from privet.server.link.routes import application
from privet.server.link.runner import Runner

_MOST_CONNECTIONS = 2000
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of malloc.h

log = logging.getLogger("privet.server")


def serve(kit: ServerKit, *, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called when silos and administrators may come.

    Jobs that an earlier start left unfinished are gone on with. Raises PrivetError when another
    process serves the folder, or a key, a certificate or the list of parties is unfit.
    """
    _give_memory_back()
    kit.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_process(kit.state / "server.pid"):
        link, bells = Link(kit.state / "link.sqlite"), Bells()
        file = PartiesFile(kit.parties, project_key=kit.project_key)
        members = Membership(file, link, folder=kit.state)
        members.current()
        store = JobStore(kit.state / "jobs")
        registry = new_registry()
        metrics = ServerMetrics(registry, store, members, link)
        runner = Runner(
            store,
            members,
            link,
            bells,
            tasks=kit.tasks,
            patience=kit.patience,
            observe=metrics.watch,
        )
        pages = Pages(members.current)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
            runner.start()
            ready()
            yield
            runner.stop()

        gate = Gate(
            fleet=link.app(),
            own=application(store, runner, members, pages=pages, lifespan=lifespan),
            link=link,
            checking=Checking(members.current),
            bells=bells,
            members=members,
            largest=kit.max_message_mb * 1_000_000,
            pages=pages,
        )
        server = listener(gate, kit)
        try:
            with (
                serving_metrics(kit.metrics, registry),
                serving_health(kit.health, SERVER) as health,
                health.following(lambda: server.started and not server.should_exit),
            ):
                server.run()
        except SystemExit:  # uvicorn has said why in its log
            raise PrivetError(f"cannot serve at {kit.listen}") from None
        if not server.started:
            raise PrivetError(
                f"cannot serve at {kit.listen}: the address is taken or not this host's"
            )


def listener(gate: Gate, kit: ServerKit) -> uvicorn.Server:
    """What listens at the kit's address and serves TLS 1.3, once it is run."""
    host, port = host_port(kit.listen)
    _check_certificate(kit.certificate, kit.certificate_key)
    return _Server(
        uvicorn.Config(
            gate,
            host=host,
            port=port,
            ssl_certfile=str(kit.certificate),
            ssl_keyfile=str(kit.certificate_key),
            ssl_context_factory=_newest_tls,
            http=Patient,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            limit_concurrency=_MOST_CONNECTIONS,
        )
    )


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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End at a signal."""
        gate = self.config.app
        assert isinstance(gate, Gate)
        gate.bells.close()
        super().handle_exit(sig, frame)


def _newest_tls(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:  # noqa: ARG001
    tls = default()
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    return tls


def _check_certificate(certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        if not path.exists():
            raise PrivetError(f"{path} is missing; privet provision makes it")
