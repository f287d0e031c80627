"""What operators and orchestrators see of a long-running process: health, metrics, logs.

Health is the standard gRPC protocol, metrics are Prometheus' at an address of their own, and a log
is a line for people or a JSON object for machines.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
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
_LOOK = 1.0
# Watches stay open for as long as who asks likes.
_MOST_QUESTIONS = 100
_OWN_PORT = ("grpc.so_reuseport", 0)
"""Otherwise a second process takes the port as well, and either answers for both."""
_NO_PROXY = ("grpc.enable_http_proxy", 0)
"""A proxy that the environment names is for other hosts than the one that is asked here."""


class Health:
    """What a process says of itself; safe to share between threads."""

    def __init__(self, service: str, servicer: Any = None) -> None:
        """`servicer`: None tells nobody."""
        self._names, self._servicer = ("", service), servicer

    def set(self, serving: bool) -> None:
        """From now on the process, and its service, is SERVING or NOT_SERVING."""
        status = health_pb2.HealthCheckResponse
        for name in self._names if self._servicer else ():
            self._servicer.set(name, status.SERVING if serving else status.NOT_SERVING)

    @contextmanager
    def following(self, probe: Callable[[], bool]) -> Iterator[None]:
        """Say what `probe` says, looked at every second while the context is open."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(_LOOK):
                self.set(probe())

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


def health_fault(address: str, *, seconds: float = 5.0) -> str | None:
    """Why whoever answers at "host:port" is not SERVING, in a few words, or None: it is.

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
            status = ask(health_pb2.HealthCheckRequest(), timeout=seconds).status
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer in {seconds:g} s"
            return f"no answer ({error.code().name.lower().replace('_', ' ')})"
    return None if status == names.SERVING else str(names.Name(status)).lower().replace("_", " ")


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
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("privet").setLevel(logging.INFO)


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
