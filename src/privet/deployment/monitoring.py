"""What operators and orchestrators see of a long-running process: health, metrics, logs.

Health is the standard gRPC protocol, metrics are Prometheus' at an address of their own, and a log
is a line for people or a JSON object for machines.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from privet.deployment.parties.addresses import host_port
from privet.errors import PrivetError

SERVER, SILO = "privet.server", "privet.silo"
"""Names of the services, beside "" for the process as a whole."""
UNKNOWN = "unknown"
"""What is said of a service that there is not."""
_LOOK = 1.0
# Watches stay open for as long as who asks likes.
_MOST_QUESTIONS = 100
_OWN_PORT = ("grpc.so_reuseport", 0)
"""Otherwise a second process takes the port as well, and either answers for both."""
_NO_PROXY = ("grpc.enable_http_proxy", 0)
"""A proxy that the environment names is for other hosts than the one that is asked here."""


log = logging.getLogger("privet")


class Health:
    """What a process says of itself; safe to share between threads."""

    def __init__(self, service: str, servicer: Any = None) -> None:
        """`servicer`: None tells nobody."""
        self._names, self._servicer = ("", service), servicer
        self._faults: dict[str, str | None] = {}

    def set(self, serving: bool) -> None:
        """From now on the process, and its service, is SERVING or NOT_SERVING."""
        for name in self._names:
            self._set(name, serving)

    def set_parts(self, faults: Mapping[str, str | None]) -> None:
        """Say it of each part, as a service "<service>.<part>", and of the whole: it is well when
        all are. What begins or ends to be wrong is a line of the log."""
        for part, fault in faults.items():
            self._set(f"{self._names[1]}.{part}", fault is None)
            before = self._faults.get(part)
            if (fault is None) != (before is None):
                log.log(*_change(part, fault))
        self._faults = dict(faults)
        self.set(not any(faults.values()))

    def _set(self, name: str, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        if self._servicer:
            self._servicer.set(name, status.SERVING if serving else status.NOT_SERVING)

    @contextmanager
    def following(self, probe: Callable[[], bool | Mapping[str, str | None]]) -> Iterator[None]:
        """Say what `probe` says, of the whole or of each part, looked at every second while the
        context is open."""
        over = threading.Event()

        def look() -> None:
            told = probe()
            if isinstance(told, bool):
                self.set(told)
            else:
                self.set_parts(told)

        def follow() -> None:
            while not over.wait(_LOOK):
                try:
                    look()
                except Exception:
                    log.exception("how this process is cannot be told")
                    self.set(False)

        thread = threading.Thread(target=follow, daemon=True, name="health")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.set(False)


@contextmanager
def serving_health(address: str | None, service: str) -> Iterator[Health]:
    """Serve grpc.health.v1.Health at "host:port" while the context is open; nothing for None.

    It begins as NOT_SERVING. PrivetError when the address is taken or not this host's.
    """
    if address is None:
        yield Health(service)
        return
    servicer = health.HealthServicer()
    told = Health(service, servicer)
    told.set(False)
    server = grpc.server(
        ThreadPoolExecutor(2, thread_name_prefix="health"),
        options=(_OWN_PORT,),
        maximum_concurrent_rpcs=_MOST_QUESTIONS,
    )
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        # Without TLS: it says SERVING or not, and Kubernetes' gRPC probes speak nothing else.
        server.add_insecure_port(address)
    except RuntimeError:
        raise PrivetError(
            f"health = {address!r}: the address is taken or not this host's"
        ) from None
    server.start()
    try:
        yield told
    finally:
        servicer.enter_graceful_shutdown()
        server.stop(grace=0.5).wait()


def _change(part: str, fault: str | None) -> tuple[int, str, str, str]:
    if fault is None:
        return logging.INFO, "%s: well again%s", part, ""
    return logging.ERROR, "%s: %s", part, fault


def health_fault(address: str, *, service: str = "", seconds: float = 5.0) -> str | None:
    """Why whoever answers at "host:port", or a service there, is not SERVING, in a few words; None:
    it is.

    Returns within `seconds`. PrivetError for what is no address.
    """
    try:
        host_port(address)
    except ValueError as error:
        raise PrivetError(str(error)) from None
    names = health_pb2.HealthCheckResponse.ServingStatus
    with grpc.insecure_channel(address, options=(_NO_PROXY,)) as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        try:
            question = health_pb2.HealthCheckRequest(service=service)
            status = ask(question, timeout=seconds).status
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return UNKNOWN
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer in {seconds:g} s"
            return f"no answer ({error.code().name.lower().replace('_', ' ')})"
    return None if status == names.SERVING else str(names.Name(status)).lower().replace("_", " ")


PARTS = ("jobs", "link", "database", "disk", "certificate", "memberships")
"""Of a server: each is a service of its own too, such as "privet.server.jobs"."""


def parts_at(address: str) -> dict[str, bool]:
    """Which parts the server at "host:port" has, and whether each is well; {} for another one."""
    told = {part: health_fault(address, service=f"{SERVER}.{part}") for part in PARTS[:1]}
    if set(told.values()) - {None, "not serving"}:
        return {}
    told |= {part: health_fault(address, service=f"{SERVER}.{part}") for part in PARTS[1:]}
    return {part: fault is None for part, fault in told.items()}


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures (memory, CPU, files) and nothing else."""
    # Not the default one, which other libraries may fill.
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


@contextmanager
def serving_metrics(address: str | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve `registry` at http://host:port/metrics while the context is open; nothing for None.

    PrivetError when the address is taken or not this host's.
    """
    if address is None:
        yield
        return
    host, port = host_port(address)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise PrivetError(f"metrics = {address!r}: cannot serve there ({error.strerror})") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def log_to_stderr(*, as_json: bool) -> None:
    """Write what privet logs to standard error; of other libraries, warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Lines())
    handler.addFilter(Sparing())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("privet").setLevel(logging.INFO)


STRANGERS = "privet.strangers"
"""The logger of what others can bring about as often as they like: anybody, or a hostile party."""


class Sparing(logging.Filter):
    """Lets through ten records of a kind a minute of what anybody can bring about: whoever is
    refused for ever must not fill a disk. The next one of the kind says how many were kept back."""

    _MOST, _SECONDS = 10, 60.0
    _NAMES = frozenset({STRANGERS, "uvicorn.error"})

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._lock = clock, threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is one of the first of its kind."""
        if record.name not in self._NAMES:
            return True
        # A kind is a text of the code, without what is filled in: there are few.
        kind, now = str(record.msg), self._clock()
        with self._lock:
            begun, seen = self._kinds.get(kind, (now, 0))
            kept_back = max(0, seen - self._MOST)
            if now - begun >= self._SECONDS:
                begun, seen = now, 0
            self._kinds[kind] = begun, seen + 1
        if seen == 0 and kept_back:
            record.msg = f"{kind} (after {kept_back} more like it, not logged)"
        return seen < self._MOST


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{_time(record)} {level}{self._text(record)}"

    def _text(self, record: logging.LogRecord) -> str:
        # A line each: what others sent may stand in it, and must not look like a line of its own.
        text = "".join(each if each.isprintable() else " " for each in record.getMessage())
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
