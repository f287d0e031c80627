"""How many connections there may be, so that neither a crowd nor silence keeps the parties out.

A connection is a stranger's until a party's signature came over it. Where too many are open, in all
or from one address, the oldest stranger's gives way to the next. A part of the process's files is
never given to connections: the jobs need them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from privet.errors import PrivetError

RESERVE = 256
"""Open files that are the jobs' and the database's."""
HANDSHAKE_SECONDS = 10.0
"""From a connection to the end of its TLS handshake."""
_GOODBYE_SECONDS = 5.0
_BACKLOG = 128
_MOST_LEAVING = 32
"""Connections that were cut off and still hold a file: it is given back a moment later."""

_Peer = tuple[str, int]


def files_for(connections: int) -> int:
    """How many connections there may be, at most `connections`: the rest of the files is kept.

    The limit of open files is raised first as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    wanted = connections + RESERVE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # With fewer files than the reserve a server is of little use; it says so, and tries.
    return max(_MOST_LEAVING, min(connections, soft - RESERVE))


@dataclass
class Connections:
    """The connections that are open. Used by the event loop's thread only, but for the counts."""

    most: int
    """Connections in all."""
    most_by_address: int
    """Connections from one address; of IPv6, from one network of 64 bits."""
    cut_off: int = 0
    """Strangers who gave way, and connections that found no place."""
    _open: dict[ClientSocket, None] = field(default_factory=dict)
    """The oldest first."""
    _by_peer: dict[_Peer, ClientSocket] = field(default_factory=dict)
    _leaving: int = 0
    _by_network: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether nobody can be taken in before some who were cut off are gone."""
        return self._leaving >= _MOST_LEAVING

    def enter(self, client: ClientSocket) -> bool:
        """Take a connection in; False when there is no place, and nobody to give way."""
        while self._by_network[client.network] >= self.most_by_address:
            if not self._cut_off_a_stranger(client.network):
                return False
        while len(self._open) - self._leaving >= self.most:
            if not self._cut_off_a_stranger(None):
                return False
        self._by_network[client.network] += 1
        self._open[client] = None
        # A port may come again before the one who had it is gone here.
        self._by_peer[client.peer] = client
        return True

    def leave(self, client: ClientSocket) -> None:
        """A connection is closed."""
        if client not in self._open:
            return
        del self._open[client]
        if self._by_peer.get(client.peer) is client:
            del self._by_peer[client.peer]
        if client.is_leaving:
            self._leaving -= 1
        else:
            self._forget_network(client.network)

    def recognise(self, peer: object) -> None:
        """A party's signature came over the connection of `peer`, (host, port): it gives way to
        nobody."""
        if isinstance(peer, list | tuple) and (client := self._by_peer.get((peer[0], peer[1]))):
            client.is_party = True

    def _cut_off_a_stranger(self, network: str | None) -> bool:
        self.cut_off += 1
        for client in self._open:
            stays = client.is_party or client.is_leaving
            if not stays and network in (None, client.network):
                client.is_leaving = True
                self._leaving += 1
                self._forget_network(client.network)
                client.cut_off()
                return True
        return False

    def _forget_network(self, network: str) -> None:
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]


class ListeningSocket(socket.socket):
    """A listening socket that takes in as many as there is a place for."""

    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; BlockingIOError when nobody waits, or nobody can be taken in."""
        while not self.connections.is_busy:
            accepted, peer = super().accept()
            client = ClientSocket(fileno=accepted.detach())
            client.connections, client.peer, client.network = (
                self.connections,
                peer[:2],
                _network(peer[0]),
            )
            if self.connections.enter(client):
                return client, peer
            client.close()
        raise BlockingIOError


class ClientSocket(socket.socket):
    """A connection that gives its place back when it ends."""

    connections: Connections | None = None
    peer: _Peer = "", 0
    network = ""
    is_party = False
    """Whether a party has signed something that came over it."""
    is_leaving = False

    def cut_off(self) -> None:
        """End it; the event loop closes it a moment later."""
        with suppress(OSError):  # it is not connected any more
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its place away."""
        if self.connections is not None:
            self.connections.leave(self)
            self.connections = None
        super().close()


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers wait for no handshake for long."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """As asyncio's; its own limits are a minute and half a minute."""
        if isinstance(options.get("ssl"), ssl.SSLContext):
            options |= {
                "ssl_handshake_timeout": HANDSHAKE_SECONDS,
                "ssl_shutdown_timeout": _GOODBYE_SECONDS,
                "backlog": _BACKLOG,
            }
        return await super().create_server(*args, **options)


def listening_sockets(host: str, port: int, connections: Connections) -> Sequence[ListeningSocket]:
    """Listening sockets at every address of `host`; PrivetError when it cannot be listened at."""
    opened: list[ListeningSocket] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = ListeningSocket(family, kind, protocol)
            opened.append(listening)
            listening.connections = connections
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # the same port of IPv4 is another socket's
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            # From here on those who come are kept waiting, and not refused.
            listening.listen(_BACKLOG)
    except OSError as error:
        for listening in opened:
            listening.close()
        raise PrivetError(
            f"cannot serve at {host}:{port}: the address is taken or not this host's "
            f"({error.strerror})"
        ) from None
    return opened


def _network(host: str) -> str:
    """Whom a cap by address counts together."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
