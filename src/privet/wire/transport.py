"""A message from its parts, with one copy of a large array, or none, in memory.

Flower's own inflation holds all parts, their bodies and the joined array at once. Small parts
travel in one request, instead of a request for each: a line of JSON, then the parts one behind the
other: {"names": [...], "sizes": [...], ...}. The part named HEAD is what Flower's own protocol
would say: the message without content, and the names of its parts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

Part = Callable[[str], bytes]
Join = Callable[[Iterable[bytes]], bytes | memoryview]
_HEADER = 4096
"""Bytes of numpy's own header, at most."""
_DEEPEST = 8
"""Message, records, record, array, chunk: what is deeper is nothing of ours."""


def in_memory(parts: Iterable[bytes]) -> bytes:
    """`b"".join`, with one of the parts in memory at a time."""
    data = BytesIO()
    for part in parts:
        data.write(part)
    return data.getvalue()


def assemble(name: str, part: Part, *, join: Join = in_memory, most: int | None = None) -> Message:
    """The message of this name; `part` gives the content of each of its parts, when it is asked.

    With another `join`, such as `paged_join`, the message is for reading only: it cannot be sent on
    or pickled. `most`: bytes of all arrays together; a part may stand in many places.
    Raises ValueError for parts that make no message, that are more than `most` or than an array
    says of itself, and whatever `part` raises.
    """
    try:
        found = _Found({}, {}, {}, join, most)
        _gather(name, part, found, _DEEPEST)
        message = inflate_object_from_contents(name, found.contents, objects=found.arrays)
    # What Flower's inflation raises, of which none says that the parts are at fault.
    except (LookupError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"its parts make no sense: {error}") from None
    if not isinstance(message, Message):
        raise ValueError("it is no message")
    if message.has_content():
        for record in message.content.values():
            for array in record.values() if isinstance(record, ArrayRecord) else ():
                array.data = found.values[array.data]  # type: ignore[assignment]
    # As Flower itself does: the property has no setter.
    message.metadata.__dict__["_message_id"] = name
    return message


@dataclass
class _Found:
    contents: dict[str, bytes]
    """Of the parts that Flower inflates."""
    arrays: dict[str, InflatableObject]
    """With their names for values: Flower takes no others than `bytes`, and copies arrays."""
    values: dict[bytes, bytes | memoryview]
    """Of arrays, by their names."""
    join: Join
    left: int | None
    """Bytes that arrays may still have."""

    def pieces(self, contents: Iterable[bytes], declared: int) -> Iterator[bytes]:
        """The bodies of an array's chunks; ValueError before there are too many bytes."""
        size = 0
        for content in contents:
            body = get_object_body(content, ArrayChunk)
            size += len(body)
            if size > declared:
                raise ValueError("an array is larger than its shape says")
            if self.left is not None:
                self.left -= len(body)
                if self.left < 0:
                    raise ValueError("its arrays are larger than the job's model allows")
            yield body


def _declared(dtype: str, shape: Iterable[int]) -> int:
    """The most bytes that an array of this kind has, with what is written in front of it."""
    return math.prod(shape) * np.dtype(dtype).itemsize + _HEADER


def _gather(name: str, part: Part, found: _Found, depth: int) -> None:
    """All parts below `name`."""
    if name in found.contents or name in found.arrays:
        return
    if depth == 0:
        raise ValueError("its parts are nested too deeply")
    content = part(name)
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind == Array.__qualname__:
        about = json.loads(get_object_body(content, Array))
        found.arrays[name] = Array(
            dtype=about["dtype"],
            shape=tuple(about["shape"]),
            stype=about["stype"],
            data=name.encode(),
        )
        pieces = (part(children[place]) for place in about["arraychunk_ids"])
        declared = _declared(about["dtype"], about["shape"])
        found.values[name.encode()] = found.join(found.pieces(pieces, declared))
        return
    found.contents[name] = content
    for child in children:
        _gather(child, part, found, depth - 1)


NEXT, ANSWER = "messages/next", "messages/answer"
"""The routes, below privet's own: the next message for a silo, and a silo's answer to one."""
HEAD = "head"
"""The part that says what message this is."""
SMALL = 1 << 20
"""Bytes up to which a part travels with others."""
TOGETHER = 8 << 20
"""Bytes that travel together at most."""
# Where the search for the end of a line stops in what a stranger sends.
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
        # `type`, since True is an int too.
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
