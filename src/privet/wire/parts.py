"""A message with its small parts in one request, instead of a request for each.

A line of JSON, then the parts one behind the other: {"names": [...], "sizes": [...], ...}. The part
named HEAD is what Flower's own protocol would say: the message without content, and the names of
its parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NEXT, ANSWER = "messages/next", "messages/answer"
"""The routes, below privet's own: the next message for a silo, and a silo's answer to one."""
HEAD = "head"
"""The part that says what message this is."""
SMALL = 1 << 20
"""Bytes up to which a part travels with others."""
TOGETHER = 8 << 20
"""Bytes that travel together at most."""
_LONGEST_HEAD = 1 << 20


def pack(parts: Mapping[str, bytes], **facts: object) -> bytes:
    """`parts` by name, with `facts` in front."""
    head = {**facts, "names": list(parts), "sizes": [len(part) for part in parts.values()]}
    return b"".join([json.dumps(head).encode(), b"\n", *parts.values()])


def unpack(body: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The reverse; ValueError for what `pack` does not make."""
    end = body.find(b"\n", 0, _LONGEST_HEAD)
    if end < 0:
        raise ValueError("parts without a head")
    try:
        head = json.loads(body[:end])
        names, sizes = head.pop("names"), head.pop("sizes")
        fine = all(isinstance(name, str) for name in names) and all(
            type(size) is int and size >= 0 for size in sizes
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("parts with an unreadable head") from None
    if not (fine and len(set(names)) == len(sizes) and end + 1 + sum(sizes) == len(body)):
        raise ValueError("parts that do not fit their head")
    parts, start = {}, end + 1
    for name, size in zip(names, sizes, strict=True):
        parts[name] = body[start : start + size]
        start += size
    return parts, head
