"""A message from its parts, with one copy of a large array, or none, in memory.

Flower's own inflation holds all parts, their bodies and the joined array at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO

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
_DEEPEST = 8
"""Message, records, record, array, chunk: what is deeper is nothing of ours."""


def in_memory(parts: Iterable[bytes]) -> bytes:
    """`b"".join`, with one of the parts in memory at a time."""
    data = BytesIO()
    for part in parts:
        data.write(part)
    return data.getvalue()


def assemble(name: str, part: Part, *, join: Join = in_memory) -> Message:
    """The message of this name; `part` gives the content of each of its parts, when it is asked.

    With another `join`, such as `paged_join`, the message is for reading only: it cannot be sent on
    or pickled.
    Raises ValueError for parts that make no message, and whatever `part` raises.
    """
    try:
        found = _Found({}, {}, {}, join)
        _gather(name, part, found, _DEEPEST)
        message = inflate_object_from_contents(name, found.contents, objects=found.arrays)
    except (LookupError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"its parts make no sense: {error}") from None
    if not isinstance(message, Message):
        raise ValueError("it is no message")
    if message.has_content():
        for record in message.content.values():
            for array in record.values() if isinstance(record, ArrayRecord) else ():
                array.data = found.values[array.data]  # type: ignore[assignment]
    message.metadata.__dict__["_message_id"] = name
    return message


@dataclass(frozen=True)
class _Found:
    contents: dict[str, bytes]
    """Of the parts that Flower inflates."""
    arrays: dict[str, InflatableObject]
    """With their names for values: Flower takes no others than `bytes`, and copies arrays."""
    values: dict[bytes, bytes | memoryview]
    """Of arrays, by their names."""
    join: Join


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
        found.values[name.encode()] = found.join(get_object_body(p, ArrayChunk) for p in pieces)
        return
    found.contents[name] = content
    for child in children:
        _gather(child, part, found, depth - 1)
