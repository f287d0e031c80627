"""A kit on disk: a folder, and the archive that is handed over."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from privet.parties.files import write_whole
from privet.privacy.ledger.files import sync_folder
from privet.provision.rendering import SECRET, Content

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for all, so that the same files make the same archive."""


@contextmanager
def folder_made_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end, or nothing at all after an exception."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    try:
        yield unfinished
        sync_folder(unfinished)
        unfinished.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def put(folder: Path, files: Mapping[str, Content]) -> tuple[str, ...]:
    """Write those files that are absent or differ; returns their names."""
    stale = tuple(name for name, file in files.items() if _held(folder / name) != file.data)
    for name in stale:
        write_whole(folder / name, files[name].data, mode=files[name].mode)
    return stale


def archive(folder: Path, names: Sequence[str]) -> None:
    """Bring the archive beside a kit up to date: those of `names` that are in the folder.

    It is for its owner alone, as it may hold keys.
    """
    path = folder.with_name(f"{folder.name}.zip")
    content = _zipped(folder, [name for name in names if (folder / name).is_file()])
    if _held(path) != content:
        write_whole(path, content, mode=0o600)


def _zipped(folder: Path, names: Sequence[str]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as target:
        for name in names:
            file = folder / name
            entry = zipfile.ZipInfo(f"{folder.name}/{name}", date_time=_EPOCH)
            entry.create_system = 3  # Unix, where the upper half of the attributes is the mode
            entry.external_attr = (0o100000 | _mode(file)) << 16
            target.writestr(entry, file.read_bytes())
    return whole.getvalue()


def _mode(file: Path) -> int:
    if file.name in SECRET:
        return 0o600
    return 0o755 if file.suffix == ".sh" else 0o644


def _held(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
