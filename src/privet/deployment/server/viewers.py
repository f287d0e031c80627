"""Who may look at the live page: links that work once, and the sessions that they begin.

An administrator's signed request gives a link; the browser that opens it gets a cookie. Tokens and
cookies are 256 random bits, kept in memory and only as hashes: a restart of the server ends all.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from privet.deployment.parties import Parties, Party

PAGE = "/page"
"""Where the page is; nothing else is shown to a cookie."""
ENTRY = PAGE + "/enter/"
"""Where links lead; the token follows."""
# Browsers take this prefix over TLS only. "__Host-" would ask for Path=/, and so send it to all
# routes.
COOKIE = "__Secure-privet-page"
PRIVATE = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer below /page."""
LINK_SECONDS = 120.0
"""Time to open it in a browser; in whose history it is then of no use to anybody."""
SESSION_SECONDS = 3600.0
"""From its beginning, whatever is looked at: nothing prolongs a session."""
_MOST = 256
_BYTES = 32


@dataclass(frozen=True)
class _Pass:
    """A link or a session. Of its secret the hash alone: nothing that is kept opens the page."""

    digest: bytes
    name: str
    identity: str
    until: float


@dataclass
class PagePasses:
    """The passes of one start of the server; safe to share between threads.

    A pass is worth something while the administrator who asked for it may act: not when revoked or
    expired, not when the name has got another key. Beyond 256 links or sessions the oldest ends.
    """

    parties: Callable[[], Parties]
    clock: Callable[[], float] = time.monotonic
    """Not the time of day: a clock that is set back makes no session longer."""
    _links: list[_Pass] = field(default_factory=list)
    _sessions: list[_Pass] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def invite(self, admin: Party) -> str:
        """The path of a link for `admin`: good once, within two minutes."""
        with self._lock:
            return ENTRY + self._issue(self._links, admin.name, admin.identity, LINK_SECONDS)

    def enter(self, token: str) -> str | None:
        """The cookie of a new session for the token of a link, which is then worth nothing more;
        None for any other token."""
        with self._lock:
            link = self._find(self._links, token)
            if link is None:
                return None
            self._links.remove(link)  # used up, whatever comes of it
            if not self._stands(link):
                return None
            return self._issue(self._sessions, link.name, link.identity, SESSION_SECONDS)

    def viewer(self, cookie: str) -> str | None:
        """The administrator whose session this is, or None; a session that ended is forgotten."""
        with self._lock:
            session = self._find(self._sessions, cookie)
            if session is not None and not self._stands(session):
                self._sessions.remove(session)
                session = None
            return None if session is None else session.name

    def _issue(self, passes: list[_Pass], name: str, identity: str, seconds: float) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        passes.append(_Pass(_digest(secret), name, identity, self.clock() + seconds))
        # An administrator's key in the wrong hands must not fill the memory.
        del passes[:-_MOST]
        return secret

    def _find(self, passes: list[_Pass], secret: str) -> _Pass | None:
        now, digest = self.clock(), _digest(secret)
        passes[:] = [each for each in passes if each.until > now]
        # All are compared, each in constant time: how long it takes tells nothing of any.
        found = [each for each in passes if hmac.compare_digest(each.digest, digest)]
        return found[0] if found else None

    def _stands(self, issued: _Pass) -> bool:
        party = self.parties().named(issued.name)
        return (
            party is not None
            and party.role == "admin"
            and party.identity == issued.identity
            and party.fault(datetime.now(UTC)) is None
        )


def set_cookie(cookie: str) -> str:
    """The value of the header Set-Cookie that begins a session in a browser."""
    return (
        f"{COOKIE}={cookie}; Path={PAGE}; Max-Age={SESSION_SECONDS:.0f}; "
        "Secure; HttpOnly; SameSite=Strict"
    )


def cookie_in(header: str) -> str:
    """The page's cookie in the header Cookie, or ""."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def is_page(path: str) -> bool:
    """Whether `path` belongs to the page."""
    return path == PAGE or path.startswith(PAGE + "/")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", errors="replace")).digest()
