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
    _open: dict[Guest, None] = field(default_factory=dict)
    """The oldest first."""
    _by_peer: dict[_Peer, Guest] = field(default_factory=dict)
    _leaving: int = 0
    _homes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether nobody can be taken in before some who were cut off are gone."""
        return self._leaving >= _MOST_LEAVING

    def enter(self, guest: Guest) -> bool:
        """Take a connection in; False when there is no place, and nobody to give way."""
        while self._homes[guest.home] >= self.most_by_address:
            if not self._cut_off_a_stranger(guest.home):
                return False
        while len(self._open) - self._leaving >= self.most:
            if not self._cut_off_a_stranger(None):
                return False
        self._homes[guest.home] += 1
        self._open[guest] = None
        # A port may come again before the one who had it is gone here.
        self._by_peer[guest.peer] = guest
        return True

    def leave(self, guest: Guest) -> None:
        """A connection is closed."""
        if guest not in self._open:
            return
        del self._open[guest]
        if self._by_peer.get(guest.peer) is guest:
            del self._by_peer[guest.peer]
        if guest.is_leaving:
            self._leaving -= 1
        else:
            self._forget_home(guest.home)

    def recognise(self, peer: object) -> None:
        """A party's signature came over the connection of `peer`, (host, port): it gives way to
        nobody."""
        if isinstance(peer, list | tuple) and (guest := self._by_peer.get((peer[0], peer[1]))):
            guest.is_party = True

    def _cut_off_a_stranger(self, home: str | None) -> bool:
        self.cut_off += 1
        for guest in self._open:
            stays = guest.is_party or guest.is_leaving
            if not stays and home in (None, guest.home):
                guest.is_leaving = True
                self._leaving += 1
                self._forget_home(guest.home)
                guest.cut_off()
                return True
        return False

    def _forget_home(self, home: str) -> None:
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
            guest.crowd, guest.peer, guest.home = self.crowd, peer[:2], _home(peer[0])
            if self.crowd.enter(guest):
                return guest, peer
            guest.close()
        raise BlockingIOError


class Guest(socket.socket):
    """A connection that its crowd hears the end of."""

    crowd: Crowd | None = None
    peer: _Peer = "", 0
    home = ""
    is_party = False
    """Whether a party has signed something that came over it."""
    is_leaving = False

    def cut_off(self) -> None:
        """End it; the event loop closes it a moment later."""
        with suppress(OSError):  # it is not connected any more
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give its place away."""
        if self.crowd is not None:
            self.crowd.leave(self)
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
