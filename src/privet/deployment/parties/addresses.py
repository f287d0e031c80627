"""Where a party listens, as people write it."""

from __future__ import annotations

import ipaddress
import re

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def host_fault(host: str) -> str | None:
    """What is wrong with `host` as a DNS name or an IP address (IPv6 without brackets), or None."""
    if ip_address(host) or _is_name(host):
        return None
    return "is no host: a name such as train.example.org, or an IP address, without a port"


def host_port(text: str) -> tuple[str, int]:
    """The host (IPv6 without its brackets) and the port of "host:port"; ValueError for others.

    >>> host_port("[::1]:8443")
    ('::1', 8443)
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    fits = bool(colon) and (":" in bare) == (bare != host) and host_fault(bare) is None
    if not (fits and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError(
            f"{text!r} is no address; write host:port, such as 127.0.0.1:9400, the port from 1 "
            "to 65535"
        )
    return bare, int(port)


def joined(host: str, port: int) -> str:
    """The text that `host_port` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address (without a zone) that `host` is, or None: it is a name."""
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    # The last label of a name is not a number: 10.0.0.400 is a mistyped address.
    return len(host) <= 253 and bool(
        re.fullmatch(rf"({_LABEL}\.)*{_LABEL}", host) and not host.rpartition(".")[2].isdigit()
    )
