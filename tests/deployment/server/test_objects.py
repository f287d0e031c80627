"""Parts of messages on their way: where they are kept, and that they go with the message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from privet.deployment.server.objects import LARGE, ObjectsOnDisk

RUN = 1


def message() -> tuple[RecordDict, dict[str, bytes]]:
    """Something with one large part and several small ones."""
    values = np.arange(LARGE // 4 + 1, dtype=np.float32)
    content = RecordDict({"model": ArrayRecord({"weights": Array(values)})})
    return content, {n: part.deflate() for n, part in get_all_nested_objects(content).items()}


def test_large_parts_are_in_files_and_go_with_their_message(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "left by a process that died").touch()
    store, (content, parts) = ObjectsOnDisk(tmp_path / "objects"), message()
    assert list((tmp_path / "objects").iterdir()) == []
    assert set(store.preregister(RUN, get_object_tree(content))) == set(parts)
    assert {store.get(name) for name in parts} == {b""}
    for name, part in parts.items():
        store.put(name, part)
    large = {name for name, part in parts.items() if len(part) >= LARGE}
    assert {path.name for path in (tmp_path / "objects").iterdir()} == large != set()
    assert {name: store.get(name) for name in parts} == parts
    small = {name: part for name, part in parts.items() if name not in large}
    assert {name: store.in_memory(name) for name in parts} == small | dict.fromkeys(large)
    store.delete(content.object_id)
    assert len(store) == 0
    assert list((tmp_path / "objects").iterdir()) == []
    assert store.get(content.object_id) is None


def test_a_part_may_be_read_and_forgotten_before_its_sender_hears_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator takes a reply the moment that its last part stands."""
    store, (content, parts) = ObjectsOnDisk(tmp_path / "objects"), message()
    store.preregister(RUN, get_object_tree(content))
    put = InMemoryObjectStore.put

    def put_and_forget(self: InMemoryObjectStore, name: str, part: bytes) -> None:
        put(self, name, part)
        if name == content.object_id:
            self.delete(name)

    monkeypatch.setattr(InMemoryObjectStore, "put", put_and_forget)
    for name in sorted(parts, key=lambda name: name == content.object_id):
        store.put(name, parts[name])
    assert len(store) == 0
    assert list((tmp_path / "objects").iterdir()) == []
