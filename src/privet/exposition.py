"""Prometheus metrics of a process at an address of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from privet.errors import PrivetError
from privet.parties.addresses import host_port


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures (memory, CPU, files) and nothing else."""
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
