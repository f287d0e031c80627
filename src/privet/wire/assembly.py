"""A message from its parts, with one copy of a large array in memory instead of three.

Flower's own inflation holds all parts, their bodies and the joined array at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO

from flwr.app import Array, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_head_values_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

Part = Callable[[str], bytes]
_DEEPEST = 8
"""Message, records, record, array, chunk: what is deeper is nothing of ours."""


def assemble(name: str, part: Part) -> Message:
    """The message of this name; `part` gives the content of each of its parts, when it is asked.

    Raises ValueError for parts that make no message, and whatever `part` raises.
    """
    try:
        contents: dict[str, bytes] = {}
        arrays: dict[str, InflatableObject] = {}
        _gather(name, part, contents, arrays, _DEEPEST)
        message = inflate_object_from_contents(name, contents, objects=arrays)
    except (LookupError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"its parts make no sense: {error}") from None
    if not isinstance(message, Message):
        raise ValueError("it is no message")
    message.metadata.__dict__["_message_id"] = name
    return message


def _gather(
    name: str,
    part: Part,
    contents: dict[str, bytes],
    arrays: dict[str, InflatableObject],
    depth: int,
) -> None:
    """All parts below `name`, in `contents` as they are, in `arrays` made."""
    if name in contents or name in arrays:
        return
    if depth == 0:
        raise ValueError("its parts are nested too deeply")
    content = part(name)
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind == Array.__qualname__:
        arrays[name] = _array(content, children, part)
        return
    contents[name] = content
    for child in children:
        _gather(child, part, contents, arrays, depth - 1)


def _array(content: bytes, children: list[str], part: Part) -> Array:
    about = json.loads(get_object_body(content, Array))
    data = BytesIO()
    for place in about["arraychunk_ids"]:
        data.write(get_object_body(part(children[place]), ArrayChunk))
    return Array(
        dtype=about["dtype"],
        shape=tuple(about["shape"]),
        stype=about["stype"],
        data=data.getvalue(),
    )
