"""Parts of messages on their way: small ones in memory, those of models in files.

A round of a large model has a copy of it for every silo on its way; memory is for the sum. The
files are this process's only, are gone with the message, and what a dead one left is swept away.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

LARGE = 1 << 20
"""Bytes from which a part is kept in a file."""
# No object is this: every one begins with the name of its kind.
_IN_FILE = b"\0"


class ObjectsOnDisk(InMemoryObjectStore):
    """Flower's store in memory, with the content of large objects in a folder."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`, which nobody else uses, and empty it."""
        super().__init__()
        self._folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep an object that was announced; ValueError when it is not what its name says."""
        # Flower checks the digest first: only what is what its name says gets a file of that name.
        super().put(object_id, object_content)
        if len(object_content) < LARGE:
            return
        with self.lock_store:
            # Whoever waited for it may have read and forgotten it already.
            entry = self.store.get(object_id)
            if entry is not None and entry.content is object_content:
                self._file(object_id).write_bytes(object_content)
                entry.content = _IN_FILE

    def get(self, object_id: str) -> bytes | None:
        """The content, b"" for one that is on its way, None for one that was not announced."""
        with self.lock_store:
            # Read under the lock, or the file could be gone between the look and the reading.
            content = super().get(object_id)
            return self._file(object_id).read_bytes() if content == _IN_FILE else content

    def in_memory(self, object_id: str) -> bytes | None:
        """As `get`, but None for a large object: its file is not read."""
        content = super().get(object_id)
        return None if content == _IN_FILE else content

    def delete(self, object_id: str) -> None:
        """Forget an object that no other refers to, and its parts."""
        with self.lock_store:
            super().delete(object_id)
            # It stays while another message refers to it, as all silos' messages do to one model.
            if object_id not in self.store:
                self._file(object_id).unlink(missing_ok=True)

    def _file(self, object_id: str) -> Path:
        return self._folder / object_id
