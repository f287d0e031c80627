"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of whatever `path` held, once it is on disk.

    A process that dies meanwhile leaves the old file, and perhaps `.<name>.part` beside it, which
    the next call overwrites. `path` has one writer.
    """
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
