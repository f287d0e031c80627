"""Where this machine keeps data sets, and finding files there or saying what to do about it."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from privet.errors import DataError

_HOW = "name the data folder with --data-dir or PRIVET_DATA"


def data_file(data_dir: Path | None, folder: str, name: str, *, source: str) -> Path:
    """The path of file `name`, or of `name`.gz, in `data_dir`/`folder` or in `data_dir` itself.

    `source` is the public name of the data, such as "UCI Adult". Raises DataError that says which
    file, where it was looked for and how to get it.
    """
    if data_dir is None:
        raise DataError(f"{name} ({source}) is needed and no data folder is set: {_HOW}")
    home = data_dir.expanduser().absolute()
    for place in (home / folder, home):
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise DataError(
        f"{name} not found in {home / folder}: get it from {source}, put it there, and {_HOW}"
    )


def read_bytes(path: Path) -> bytes:
    """The contents of `path`, unpacked when it ends in .gz. Raises DataError if unreadable."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


VARIABLE = "PRIVET_DATA"


def data_folder(configured: object | None = None) -> Path | None:
    """The folder that was configured, else the one in PRIVET_DATA, else none."""
    folder = configured or os.environ.get(VARIABLE)
    return Path(str(folder)).expanduser() if folder else None
