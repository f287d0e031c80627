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
class Crowd:
    """Everybody who is connected. Used by the event loop's thread only, but for the counts."""

    most: int
    """Connections in all."""
    most_by_address: int
    """Connections from one address; of IPv6, from one network of 64 bits."""
    cut_off: int = 0
    """Strangers who gave way, and connections that found no place."""
    _open: dict[_Peer, Guest] = field(default_factory=dict)
    """The oldest first."""
    _parties: set[_Peer] = field(default_factory=set)
    _leaving: set[_Peer] = field(default_factory=set)
    _homes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether nobody can be taken in before some who were cut off are gone."""
        return len(self._leaving) >= _MOST_LEAVING

    def enter(self, guest: Guest, peer: _Peer) -> bool:
        """Take a connection in; False when there is no place, and nobody to give way."""
        home = _home(peer[0])
        while self._homes[home] >= self.most_by_address:
            if not self._cut_off_a_stranger(home):
                return False
        while len(self._open) - len(self._leaving) >= self.most:
            if not self._cut_off_a_stranger(None):
                return False
        self._homes[home] += 1
        self._open[peer] = guest
        return True

    def leave(self, peer: _Peer) -> None:
        """A connection is closed."""
        if self._open.pop(peer, None) is None:
            return
        if peer not in self._leaving:
            self._forget_home(peer)
        self._leaving.discard(peer)
        self._parties.discard(peer)

    def recognise(self, peer: object) -> None:
        """A party's signature came over the connection of `peer`, (host, port): it gives way to
        nobody."""
        if isinstance(peer, list | tuple) and (known := (peer[0], peer[1])) in self._open:
            self._parties.add(known)

    def _cut_off_a_stranger(self, home: str | None) -> bool:
        self.cut_off += 1
        for peer, guest in self._open.items():
            stays = peer in self._parties or peer in self._leaving
            if not stays and home in (None, _home(peer[0])):
                self._leaving.add(peer)
                self._forget_home(peer)
                guest.cut_off()
                return True
        return False

    def _forget_home(self, peer: _Peer) -> None:
        home = _home(peer[0])
        self._homes[home] -= 1
        if not self._homes[home]:
            del self._homes[home]


class Door(socket.socket):
    """A listening socket that takes in as many as its crowd has place for."""

    crowd: Crowd

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; BlockingIOError when nobody waits, or nobody can be taken in."""
        while not self.crowd.is_busy:
            accepted, peer = super().accept()
            guest = Guest(fileno=accepted.detach())
            guest.crowd, guest.peer = self.crowd, peer[:2]
            if self.crowd.enter(guest, guest.peer):
                return guest, peer
            guest.close()
        raise BlockingIOError


class Guest(socket.socket):
    """A connection that its crowd hears the end of."""

    crowd: Crowd | None = None
    peer: _Peer = "", 0

    def cut_off(self) -> None:
        """End it; the event loop closes it a moment later."""
        with suppress(OSError):  # it is not connected any more
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its place away."""
        if self.crowd is not None:
            self.crowd.leave(self.peer)
            self.crowd = None
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


def doors(host: str, port: int, crowd: Crowd) -> Sequence[Door]:
    """Listening sockets at every address of `host`; PrivetError when it cannot be listened at."""
    opened: list[Door] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            door = Door(family, kind, protocol)
            opened.append(door)
            door.crowd = crowd
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # the same port of IPv4 is another door's
                door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            door.bind(address)
            # From here on those who come are kept waiting, and not refused.
            door.listen(_BACKLOG)
    except OSError as error:
        for door in opened:
            door.close()
        raise PrivetError(
            f"cannot serve at {host}:{port}: the address is taken or not this host's "
            f"({error.strerror})"
        ) from None
    return opened


def _home(host: str) -> str:
    """Whom a cap by address counts together."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
