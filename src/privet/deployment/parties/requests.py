"""Requests that say who makes them: signed with a party's identity key, body included, good once.

A signature covers the project, the server's start, who asks, the method, the path with its query,
the time, a nonce and the SHA-256 of the body. TLS hides requests; the signature says whose they
are, also behind a proxy that ends TLS, and a copy of one is worth nothing: a nonce is taken once,
and none that an earlier start of the server took is taken by the next.

The server checks the signature before it reads the body, and the body against the digest after.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from privet.deployment.parties.parties import Parties, Party
from privet.errors import PrivetError
from privet.privacy.ledger.keys import SiloKey, signed_by

WINDOW = 120.0
"""Seconds by which the clocks of the two ends may differ."""
SIGNATURE = "privet-signature"
START = "privet-start"
"""The header in which a server names its start, in answers to requests made for another."""
PARTIES = "privet-parties"
"""The header in which a server says the version of its list of parties."""
CANCELS = "privet-cancels"
"""The header with a number that is another one after every job that was cancelled."""
DIGEST = "privet-digest"
"""The header with the SHA-256 of a file as a whole, also where a part of it comes."""
LONGEST_HEADER = 2000


class Denied(PrivetError):  # noqa: N818 - it is the answer, not a fault
    """A request that its maker may not make; says why."""


class OtherStart(Denied):
    """A request made for another start of the server: to be signed again for this one."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What travels in the header."""

    name: str
    start: str
    at: float
    """Seconds since 1970."""
    nonce: str
    digest: str
    """SHA-256 of the body, hexadecimal."""
    by_key: str

    def header(self) -> str:
        """The header's value."""
        parts = self.name, self.start, repr(self.at), self.nonce, self.digest, self.by_key
        return json.dumps(parts, separators=(",", ":"))

    @classmethod
    def parse(cls, header: str) -> Signature:
        """The reverse; Denied for anything else."""
        try:
            if len(header) > LONGEST_HEADER:
                raise ValueError
            name, start, at, nonce, digest, by_key = json.loads(header)
            parts = {"name": name, "start": start, "nonce": nonce, "digest": digest}
            if not all(isinstance(part, str) for part in (*parts.values(), at, by_key)):
                raise ValueError
            return cls(**parts, at=float(at), by_key=by_key)
        except (ValueError, TypeError, RecursionError):
            raise Denied(f"the header {SIGNATURE} is missing or malformed") from None

    def facts(self, *, project: str, method: str, target: str) -> bytes:
        """What is signed."""
        # The first line keeps kinds apart: a request's signature is none of an order or a list.
        said = [project, self.start, self.name, method, target, repr(self.at), self.nonce]
        return b"privet request 1\n" + json.dumps([*said, self.digest]).encode()


class Signing(httpx.Auth):
    """Signs a party's requests; made again at once when the server was started anew meanwhile."""

    requires_request_body = True

    def __init__(
        self,
        *,
        project: str,
        name: str,
        identity: SiloKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._project, self._name, self._identity, self._clock = project, name, identity, clock
        self._start = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request, signed; and once more for the server's present start."""
        self._sign(request)
        response = yield request
        if response.status_code == httpx.codes.CONFLICT and START in response.headers:
            self._start = response.headers[START]
            self._sign(request)
            yield request

    def _sign(self, request: httpx.Request) -> None:
        signature = Signature(
            name=self._name,
            start=self._start,
            at=self._clock(),
            nonce=secrets.token_hex(16),
            digest=hashlib.sha256(request.content).hexdigest(),
            by_key="",
        )
        target = request.url.raw_path.decode("ascii")
        facts = signature.facts(project=self._project, method=request.method, target=target)
        signed = Signature(**{**vars(signature), "by_key": self._identity.sign(facts)})
        request.headers[SIGNATURE] = signed.header()


@dataclass
class Checking:
    """Checks signatures at a server, which makes one of these at its start."""

    parties: Callable[[], Parties]
    """Who belongs to the project at this moment, so that revoking someone works at once."""
    start: str = field(default_factory=lambda: secrets.token_hex(16))
    clock: Callable[[], float] = time.time
    refusals: dict[str, str] = field(default_factory=dict)
    """By party whose key signed: why its last request was refused, until one is not."""
    _seen: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, header: str, *, method: str, target: str) -> tuple[Party, str]:
        """Who asks, and the digest that the body must have.

        Denied when it is nobody of the project, or somebody whose key has expired or was revoked,
        for a wrong signature or clock, and for a request that came before; OtherStart for one that
        was made for another start of the server.
        """
        signature = Signature.parse(header)
        parties = self.parties()
        party = parties.named(signature.name)
        facts = signature.facts(project=parties.project, method=method, target=target)
        # One answer for both: who cannot sign does not learn which names there are.
        if party is None or not signed_by(party.identity, facts, signature.by_key):
            raise Denied("not signed by a party of this project")
        # From here on refusals say more: they go to whoever holds the party's key.
        now = self.clock()
        if fault := party.fault(datetime.fromtimestamp(now, UTC)):
            raise self._refused(signature.name, fault)
        if not abs(now - signature.at) <= WINDOW:  # so that a time of NaN is refused as well
            raise self._refused(
                signature.name,
                f"the clock of {signature.name} differs from the server's by "
                f"{signature.at - now:+.0f} s; at most {WINDOW:.0f} s are allowed "
                f"({signature.name} has {_moment(signature.at)}, the server {_moment(now)})",
            )
        if signature.start != self.start:
            raise OtherStart("signed for another start of the server")
        # Last, so that only parties can have a nonce remembered, each for a few minutes.
        self._take(signature, now)
        self.refusals.pop(signature.name, None)
        return party, signature.digest

    def _refused(self, name: str, why: str) -> Denied:
        self.refusals[name] = why
        return Denied(why)

    def _take(self, signature: Signature, now: float) -> None:
        with self._lock:
            # Nonces lapse in the order in which they came: what is kept is what the last minutes
            # brought, however long the server runs.
            while self._seen and (first := next(iter(self._seen.items())))[1] < now:
                del self._seen[first[0]]
            if signature.nonce in self._seen:
                raise Denied("this request came before")
            self._seen[signature.nonce] = now + 2 * WINDOW  # by then its time is out of the window


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):  # whatever a peer takes for a time
        return "no time"


def matches(body: bytes, digest: str) -> bool:
    """Whether `body` is what was signed."""
    # Not in constant time: the digest travels in the clear and is no secret.
    return hashlib.sha256(body).hexdigest() == digest
