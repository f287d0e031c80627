"""Where this machine keeps data sets, and finding files there or saying what to do about it."""

from __future__ import annotations

import gzip
import os
import stat
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from privet.errors import DataError, ExperimentError

_HOW = "name the data folder with --data-dir or PRIVET_DATA"


def data_file(
    data_dir: Path | None, folder: str, name: str, *, source: str, held: bool = False
) -> Path:
    """The path of file `name`, or of `name`.gz, in `data_dir`/`folder` or in `data_dir` itself.

    `source` is the public name of the data, such as "UCI Adult". `held`: the folder is a data
    holder's, and a link out of it leads nowhere. Raises DataError that says which file, where it
    was looked for and how to get it.
    """
    if data_dir is None:
        raise DataError(f"{name} ({source}) is needed and no data folder is set: {_HOW}")
    home = data_dir.expanduser().absolute()
    for place in (home / folder, home):
        for candidate in (place / name, place / f"{name}.gz"):
            if candidate.is_file() and not (held and _leads_out(home, candidate)):
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


def read_inside(folder: Path | None, name: str) -> bytes:
    """The contents of the regular file `name` below `folder`, unpacked when it ends in .gz.

    Raises ExperimentError, of one text whatever is or is not there, for a name that leads out of
    the folder (from the root or a home, upwards, by a link), and for what is no regular file.
    Nothing of that kind is opened. DataError for what cannot be unpacked.
    """
    refusal = ExperimentError(f"{name[:64]!r} is no file of the data folder")
    if folder is None or not _stays_inside(name):
        raise refusal
    try:
        root = folder.resolve(strict=True)
        place = (root / name).resolve(strict=True).relative_to(root)
        raw = _read_below(root, place.parts)
    except (OSError, ValueError, RuntimeError):
        raise refusal from None
    try:
        return gzip.decompress(raw) if name.endswith(".gz") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be unpacked") from error


def demand_inside(settings: Mapping[str, str | None]) -> None:
    """ExperimentError for a path, by the setting's name, that leads out of the data folder."""
    for setting, path in settings.items():
        if path is not None and not _stays_inside(path):
            raise ExperimentError(
                f"data.{setting} = {path[:64]!r}: on real silos and servers a path below the data "
                "folder"
            )


def names_inside(folder: Path | None, pattern: str) -> list[str]:
    """What below `folder` fits a pattern such as "wards/*.csv", sorted; ExperimentError if none."""
    found: list[str] = []
    if folder is not None and _stays_inside(pattern):
        found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    if not found:
        raise ExperimentError(f"{pattern[:64]!r} fits no file of the data folder")
    return found


def _leads_out(folder: Path, path: Path) -> bool:
    return not path.resolve().is_relative_to(folder.resolve())


def _stays_inside(name: str) -> bool:
    """Whether a relative path is one on every system, in whatever form its characters come."""
    for form in (name, unicodedata.normalize("NFKC", name)):
        parts = form.split("/")
        plain = form.isprintable() and not set(form) & set("\\:")
        if not plain or form.startswith("~") or {"", ".", ".."} & {part.strip() for part in parts}:
            return False
    return not PurePosixPath(name).is_absolute()


def _read_below(root: Path, parts: Sequence[str]) -> bytes:
    """Open one part after the other, and no link: none may have come since the path was resolved.

    What is no regular file is not opened at all: that alone can move a tape or wait for a writer.
    """
    *folders, file = parts
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for each in folders:
            inner = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        if not stat.S_ISREG(os.stat(file, dir_fd=here, follow_symlinks=False).st_mode):
            raise FileNotFoundError
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)
    with os.fdopen(number, "rb") as stream:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise FileNotFoundError
        return stream.read()


VARIABLE = "PRIVET_DATA"


def data_folder(configured: object | None = None) -> Path | None:
    """The folder that was configured, else the one in PRIVET_DATA, else none."""
    folder = configured or os.environ.get(VARIABLE)
    return Path(str(folder)).expanduser() if folder else None


def cache_folder(configured: str | None, data_dir: Path | None) -> Path:
    """The folder that was configured, relative to the data folder, else the user's own cache."""
    if configured:
        return (data_dir or Path.cwd()) / Path(configured).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "privet"
