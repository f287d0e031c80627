"""Requests that say who makes them: what a server believes, and what not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privet.deployment.parties import Parties, Party
from privet.deployment.parties.requests import (
    LONGEST_HEADER,
    SIGNATURE,
    START,
    WINDOW,
    Checking,
    Denied,
    OtherStart,
    Signature,
    Signing,
    matches,
)
from privet.privacy.ledger.keys import SiloKey

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def key(number: int) -> SiloKey:
    return SiloKey(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")))


def admin(name: str, number: int, **other: Any) -> Party:
    said = {"role": "admin", "identity": key(number).public, "expires": NOON + timedelta(days=1)}
    return Party(name=name, **{**said, **other})


PARTIES = Parties("lungs", 1, (admin("ana", 2), admin("bob", 3)))


@dataclass
class Server:
    """An ASGI application that answers with whom it believes, and can be started anew."""

    parties: Parties = PARTIES
    now: float = NOON.timestamp()
    seen: list[httpx.Headers] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.checking = Checking(lambda: self.parties, clock=lambda: self.now)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        headers = httpx.Headers(scope["headers"])
        self.seen.append(headers)
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        status, told = 200, {}
        try:
            party, digest = self.checking.check(
                headers.get(SIGNATURE, ""), method=scope["method"], target=target.decode()
            )
            text = str(party) if matches(body, digest) else "another body"
        except OtherStart as denied:
            status, text, told = 409, str(denied), {START: self.checking.start}
        except Denied as denied:
            status, text = 403, str(denied)
        raw = [(k.encode(), v.encode()) for k, v in told.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": text.encode()})

    def ask(
        self, auth: httpx.Auth | None, method: str = "GET", path: str = "/a?b=1", **other: Any
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self)
            async with httpx.AsyncClient(transport=transport, base_url="https://x") as http:
                return await http.request(method, path, auth=auth, **other)

        return asyncio.run(ask())


def signing(server: Server, name: str = "ana", number: int = 2, **other: Any) -> Signing:
    said = {"project": "lungs", "clock": lambda: server.now, **other}
    return Signing(name=name, identity=key(number), **said)


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"x" * 100_000)])
def test_a_signed_request_is_believed(method: str, body: bytes) -> None:
    server = Server()
    for path in ("/a", "/a?b=1&c=%20d", "/with%20space/é"):
        answer = server.ask(signing(server), method, path, content=body)
        assert (answer.status_code, answer.text) == (200, "admin 'ana'")


def test_after_a_restart_a_client_signs_again_exactly_once_and_copies_are_worthless() -> None:
    server = Server()
    auth = signing(server)
    server.ask(auth)
    assert len(server.seen) == 2  # the first request names no start yet
    server.ask(auth)
    assert len(server.seen) == 3
    old = server.seen[-1][SIGNATURE]
    server.restart()
    assert server.ask(None, headers={SIGNATURE: old}).status_code == 409
    server.seen.clear()
    assert server.ask(auth).status_code == 200
    assert len(server.seen) == 2
    # A server that answers so for ever is not asked for ever.
    server.seen.clear()
    server.checking.start = ""
    changing = iter("abcdefgh")

    class Restless(Checking):
        def check(self, *args: Any, **other: Any) -> Any:
            self.start = next(changing)
            return super().check(*args, **other)

    server.checking = Restless(lambda: PARTIES, clock=lambda: server.now)
    assert server.ask(auth).status_code == 409
    assert len(server.seen) == 2


def test_a_request_that_came_before_is_refused() -> None:
    server = Server()
    server.ask(signing(server))
    header = server.seen[-1][SIGNATURE]
    answer = server.ask(None, headers={SIGNATURE: header})
    assert (answer.status_code, answer.text) == (403, "this request came before")


def test_a_signature_holds_for_one_method_path_query_body_project_and_name() -> None:
    server = Server()
    header = believed(server)
    for method, target in (("POST", "/a?b=1"), ("GET", "/b?b=1"), ("GET", "/a?b=2"), ("GET", "/a")):
        with pytest.raises(Denied, match="not signed by a party"):
            server.checking.check(header, method=method, target=target)
    renamed = replace(Signature.parse(header), name="bob").header()
    for other in (renamed, replace(Signature.parse(header), digest="0" * 64).header()):
        with pytest.raises(Denied, match="not signed by a party"):
            server.checking.check(other, method="GET", target="/a?b=1")
    assert not matches(b"x", Signature.parse(header).digest)
    assert server.ask(signing(server, project="livers")).status_code == 403
    assert server.ask(signing(server, number=3)).status_code == 403
    assert server.ask(signing(server, name="eve", number=4)).status_code == 403
    party, digest = server.checking.check(header, method="GET", target="/a?b=1")
    assert party.name == "ana"
    assert matches(b"", digest)


def believed(server: Server, at: float | None = None, **other: Any) -> str:
    """A header for GET /a?b=1 that was not sent."""
    auth = signing(server, **{"clock": lambda: server.now if at is None else at, **other})
    auth._start = server.checking.start
    request = httpx.Request("GET", "https://x/a?b=1")
    next(auth.auth_flow(request))
    return request.headers[SIGNATURE]


@given(st.floats(-1e6, 1e6))
def test_clocks_may_differ_by_two_minutes(skew: float) -> None:
    server = Server()
    header = believed(server, server.now + skew)
    fits = abs(server.now - (server.now + skew)) <= WINDOW
    if fits:
        server.checking.check(header, method="GET", target="/a?b=1")
        return
    with pytest.raises(Denied) as denied:
        server.checking.check(header, method="GET", target="/a?b=1")
    said = f"the clock of ana differs from the server's by {skew:+.0f} s; at most 120 s are allowed"
    assert str(denied.value).startswith(said) or abs(abs(skew) % 1 - 0.5) < 1e-3


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -float("inf")])
def test_a_time_that_is_none_is_refused(at: float) -> None:
    server = Server()
    header = believed(server, at)
    with pytest.raises(Denied, match="clock"):
        server.checking.check(header, method="GET", target="/a?b=1")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(
    st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))
    | json_values.map(json.dumps)
    | st.lists(json_values, min_size=6, max_size=6).map(json.dumps)
    | st.integers(1, 100_000).map(lambda n: "[" * n)
    | st.integers(1, 3000).map(lambda n: '["ana","","' + "9" * n + '","","",""]')
)
def test_whatever_the_header_says_it_is_denied(header: str) -> None:
    server = Server()
    with pytest.raises(Denied):
        server.checking.check(header, method="GET", target="/a?b=1")


@given(st.data())
def test_a_signature_with_a_part_changed_is_denied_and_leaves_the_true_one_good(
    data: st.DataObject,
) -> None:
    server = Server()
    header = believed(server)
    place = data.draw(st.integers(0, len(header) - 1))
    other = data.draw(st.characters(codec="latin-1").filter(lambda c: c != header[place]))
    changed = header[:place] + other + header[place + 1 :]
    if json_or_none(changed) != json.loads(header):
        with pytest.raises(Denied):
            server.checking.check(changed, method="GET", target="/a?b=1")
    assert server.checking.check(header, method="GET", target="/a?b=1")[0].name == "ana"


def json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_header_that_is_too_long_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "privet.deployment.parties.requests.json.loads", lambda _: pytest.fail("parsed")
    )
    with pytest.raises(Denied):
        Signature.parse('"' + "x" * LONGEST_HEADER)


def test_a_party_that_expires_or_is_revoked_is_refused_from_that_moment() -> None:
    server = Server()
    auth = signing(server)
    assert server.ask(auth).status_code == 200
    server.parties = replace(PARTIES, members=(admin("ana", 2, revoked=True), admin("bob", 3)))
    answer = server.ask(auth)
    assert (answer.status_code, answer.text) == (403, "admin 'ana' is revoked")
    server.parties = PARTIES
    server.now = (NOON + timedelta(days=1)).timestamp() - 1
    assert server.ask(auth).status_code == 200
    server.now += 1
    answer = server.ask(auth)
    assert (answer.status_code, answer.text) == (403, "admin 'ana' expired on 2026-06-02")


def test_nonces_are_forgotten_once_their_time_is_out_of_the_window_and_not_before() -> None:
    server = Server()
    ahead = believed(server, server.now + WINDOW)
    server.checking.check(ahead, method="GET", target="/a?b=1")
    for _ in range(1000):
        server.now += 1
        server.checking.check(believed(server), method="GET", target="/a?b=1")
        with pytest.raises(Denied):
            server.checking.check(ahead, method="GET", target="/a?b=1")
        assert len(server.checking._seen) <= 2 * WINDOW + 2
