"""Messages put together from their parts: as Flower does it, and with less memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st

from privet.paged import paged_join
from privet.simulations.grid import assume_identity
from privet.wire.records import blob
from privet.wire.transport import Join, assemble, in_memory

PIECE = 5 << 20
"""Bytes that Flower puts into a part of an array."""


def message_of(content: RecordDict) -> Message:
    assume_identity(7)
    return Message(content, 3, "train")


def parts_of(message: Message) -> dict[str, bytes]:
    return {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


values = st.one_of(st.integers(0, 2**40), st.floats(allow_nan=False), st.binary(max_size=9))
records = st.one_of(
    st.dictionaries(st.text(max_size=5), values, max_size=3).map(ConfigRecord),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3).map(MetricRecord),
    st.dictionaries(
        st.text(max_size=5),
        st.binary(max_size=30).map(blob) | st.lists(st.floats(width=32)).map(np.array).map(Array),
        max_size=3,
    ).map(ArrayRecord),
)


@given(st.dictionaries(st.text(max_size=5), records, max_size=4))
def test_it_is_the_message_that_flower_makes(content: dict[str, ConfigRecord]) -> None:
    message = message_of(RecordDict(content))
    parts = parts_of(message)
    ours = assemble(message.object_id, parts.__getitem__)
    theirs = inflate_object_from_contents(message.object_id, dict(parts))
    assert ours.object_id == theirs.object_id == message.object_id
    assert ours.metadata.message_id == message.object_id


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_arrays_of_many_parts_and_of_equal_ones_come_whole(size: int) -> None:
    """All-zero parts have one name, and are there once."""
    data = bytes(size)
    message = message_of(RecordDict({"a": ArrayRecord({"x": blob(data), "y": blob(data)})}))
    read = assemble(message.object_id, parts_of(message).__getitem__)
    assert read.content["a"]["x"].data == read.content["a"]["y"].data == data


@pytest.mark.parametrize(("join", "most"), [(in_memory, 1.3), (paged_join, 0.4)])
def test_a_large_array_is_in_memory_once_or_not_at_all(join: Join, most: float) -> None:
    size = 80 << 20
    rng = np.random.default_rng(0)
    message = message_of(RecordDict({"a": ArrayRecord({"x": blob(rng.bytes(size))})}))
    parts = parts_of(message)
    tracemalloc.start()
    read = assemble(message.object_id, parts.__getitem__, join=join)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read.content["a"]["x"].data) == size
    assert peak < most * size


@pytest.mark.parametrize("wrong", [b"", b"Array", b"\xff\x00", b"Array c 2\x00{}", None])
def test_parts_that_make_no_message_are_refused_in_one_way(wrong: bytes | None) -> None:
    message = message_of(RecordDict({"a": ArrayRecord({"x": blob(b"abc")})}))
    parts = parts_of(message)
    for name in parts:
        changed = {key: part for key, part in parts.items() if key != name}
        if wrong is not None:
            changed[name] = wrong
        with pytest.raises(ValueError):
            assemble(message.object_id, changed.__getitem__)


def test_parts_that_contain_each_other_end() -> None:
    loop = f"RecordDict {'a' * 64} 0\x00".encode()
    with pytest.raises(ValueError):
        assemble("a" * 64, lambda _: loop)
