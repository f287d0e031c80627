"""What a live server makes of connections that do not speak as it does, or not fast enough."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest

from gate_project import HOST, GateProject, LiveServer, healthy_exchange
from privet.deployment.server import serving as patience

pytestmark = pytest.mark.usefixtures("server")


def said(sock: ssl.SSLSocket) -> bytes:
    """Everything until the server closes the connection."""
    parts = []
    try:
        while part := sock.recv(65536):
            parts.append(part)
    except (ConnectionError, ssl.SSLError):
        pass
    return b"".join(parts)


def asked(project: GateProject, text: bytes) -> bytes:
    with project.socket() as sock:
        sock.sendall(text)
        return said(sock)


def signed_head(project: GateProject, *, length: int) -> bytes:
    """The head of a silo's request, as for a body of zeros."""
    path = "/v1/fleet/push-object"
    auth = project.auth("north")
    with httpx.Client(base_url=project.url, auth=auth, verify=tls(project)) as http:
        http.post(path)  # it now knows the server's start
    request = httpx.Request("POST", project.url + path, content=bytes(min(length, 1000)))
    auth._sign(request)
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}"]
    lines.append(f"privet-signature: {request.headers['privet-signature']}")
    return "\r\n".join([*lines, "", ""]).encode()


def tls(project: GateProject) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(project.ca))


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /privet/v1/hello HTTP/1.0\r\n\r\n", b"200"),
        (b"BREW /privet/v1/hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"400"),
        (b"TRACE /privet/v1/hello HTTP/1.0\r\n\r\n", b"403"),
        (b"OPTIONS * HTTP/1.0\r\n\r\n", b"40"),
        (b"CONNECT x:443 HTTP/1.0\r\n\r\n", b"40"),
        (b"GET /nowhere HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /v1/fleet/pull-messages HTTP/1.0\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /v1/fleet/pull-messages HTTP/1.0\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
         b"400"),
        (b"\x00\xff\x17 nonsense\r\n\r\n", b"400"),
    ],
)  # fmt: skip
def test_odd_requests_are_refused_in_an_orderly_way(
    project: GateProject, text: bytes, status: bytes
) -> None:
    assert asked(project, text).split(b" ")[1].startswith(status)


def test_a_websocket_is_not_spoken(project: GateProject) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    for path, status in ((b"/x", b"404"), (b"/privet/v1/status", b"403")):
        text = b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + upgrade + key + b"\r\n"
        with project.socket() as sock:
            sock.sendall(text)
            assert sock.recv(100).split(b" ")[1] == status


def test_only_tls_13_is_spoken(project: GateProject) -> None:
    older = tls(project)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        project.socket(older)
    with project.socket() as sock:
        assert sock.version() == "TLSv1.3"
    with socket.create_connection((HOST, project.port), timeout=5) as plain:
        plain.sendall(b"GET /privet/v1/hello HTTP/1.1\r\nhost: x\r\n\r\n")
        with suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(1000)


def test_a_body_needs_a_length_that_is_allowed(project: GateProject) -> None:
    head = signed_head(project, length=0)
    chunked = head.replace(b"content-length: 0", b"transfer-encoding: chunked")
    assert asked(project, chunked).split(b" ")[1] == b"411"
    huge = signed_head(project, length=3_000_000_000)
    assert asked(project, huge).split(b" ")[1] == b"413"


def test_a_shorter_or_other_body_than_was_signed_is_refused(project: GateProject) -> None:
    head = signed_head(project, length=5)
    assert asked(project, head + b"\0\0").startswith(b"HTTP/1.1 408")  # three bytes never come
    other = signed_head(project, length=5).replace(b"host: x", b"host: x\r\nconnection: close")
    assert asked(project, other + b"other").split(b" ")[1] == b"400"


def test_a_trickling_body_is_cut_off_and_holds_up_nobody(
    project: GateProject, server: LiveServer
) -> None:
    with project.socket() as sock:
        sock.sendall(signed_head(project, length=100))
        begin = time.monotonic()
        for _ in range(2):
            sock.sendall(b"\0")
            time.sleep(0.3)
        healthy_exchange(project, server)
        sock.settimeout(10)
        assert said(sock).split(b" ")[1] == b"408"
        assert time.monotonic() - begin < 9


def test_a_large_body_of_nobody_is_refused_before_it_is_read(project: GateProject) -> None:
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 300000000\r\n\r\n"
    piece = bytes(1 << 20)
    with project.socket() as sock:
        sock.sendall(head)
        assert sock.recv(1000).split(b" ")[1] == b"403"  # not a byte of the body was needed
        try:
            for _ in range(100):
                sock.sendall(piece)
        except OSError:
            pass
    stop.set()
    watcher.join()
    assert peak - before < 40e6


def test_an_endless_head_is_cut_off(project: GateProject) -> None:
    with project.socket() as sock:
        sock.sendall(b"GET /privet/v1/hello HTTP/1.1\r\nx: ")
        with pytest.raises(OSError):  # noqa: PT012
            for _ in range(1000):
                sock.sendall(b"y" * 16384)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("HEAD_SECONDS", b""),
        ("HEAD_SECONDS", b"GET / HT"),
        ("WHOLE_SECONDS", b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1"),
    ],
)
def test_a_connection_that_says_too_little_is_closed(
    project: GateProject, monkeypatch: pytest.MonkeyPatch, limit: str, text: bytes
) -> None:
    monkeypatch.setattr(patience, limit, 0.5)
    with project.socket() as sock:
        sock.settimeout(5)
        sock.sendall(text)
        begin = time.monotonic()
        said(sock)
        assert 0.3 < time.monotonic() - begin < 4


def test_a_connection_is_used_for_many_requests(project: GateProject) -> None:
    with project.http("ana") as http:
        ends: set[Any] = set()
        for size in (0, 10, 300_000, 10):
            answer = http.post("/privet/v1/jobs", content=b"x" * size)
            assert answer.status_code == 403
            ends.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ends) == 1
