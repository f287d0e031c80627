"""Files that are there whole or not at all, and locks between processes.

What is written takes the place of regular files only; what is read is a regular file, or refused
before a pipe without a writer could keep a reader for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from privet.errors import PrivetError

_TOKEN = 4  # bytes


class NotAFile(PrivetError, OSError):  # noqa: N818 - says what was found
    """A pipe, a socket or a device stands where a regular file is expected."""

    def __init__(self, path: Path, reason: str = "it is no regular file") -> None:
        super().__init__(errno.EINVAL, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def demand_file(path: Path) -> Path:
    """`path`, where a regular file, a folder or nothing is; else NotAFile.

    To be asked before a library opens a file that may come from a stranger.
    """
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NotAFile(path)
    return path


def read_file(path: Path) -> bytes:
    """The content of a regular file; NotAFile, which is an OSError, for anything that may block."""
    return demand_file(path).read_bytes()


def write_whole(
    path: Path, content: bytes, *, mode: int | None = None, durable: bool = False
) -> None:
    """Put `content` in the place of the file at `path`, as `replacing` does.

    Pipes and character devices, such as /dev/stdout, are written to and not replaced.
    """
    stream = _stream(path)
    if stream is not None:
        with stream:
            stream.write(content)
        return
    with replacing(path, mode=mode, durable=durable) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: Path, *, mode: int | None = None, durable: bool = False) -> Iterator[Path]:
    """A new file to fill, which takes the place of `path` once its content is on disk.

    A link leads to the file that is replaced. After an exception the old file stands as it was; a
    process that dies leaves the old file or the new one, and perhaps one of `leftovers`.

    Args:
        mode: of the file, exactly; without it the umask decides.
        durable: the name is on disk too, so that a power cut does not bring back the old file. It
            costs as much as the content does, a wait for the disk.

    Raises:
        NotAFile: something stands at `path` that is no regular file.
        OSError: the file cannot be written.
    """
    target = demand_file(path).resolve() if path.is_symlink() else demand_file(path)
    part = _part(target)
    # Never open to more people than `mode` says, not even while it is filled.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600))
    try:
        yield part
        if mode is not None:
            part.chmod(mode)
        # Content before name: a power cut could else leave the name with nothing behind it.
        sync(part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(target.parent)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet, durably; FileExistsError, and no change, when it is."""
    part = _part(path)
    try:
        create(part, content, mode=mode)
        path.hardlink_to(part)  # unlike a rename, it never overwrites
    # An OSError too, of which the others mean something else.
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        create(path, content, mode=mode)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def create(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new file whose content, though not yet its name, is on disk on return.

    FileExistsError when it is there already. A process that dies may leave a part of it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(path: Path) -> Iterator[Path]:
    """What writers of `path` that died have left beside it, or are writing at this moment."""
    return path.parent.glob(f".{escape(path.name)}.{2 * _TOKEN * '[0-9a-f]'}.part")


def locked(
    path: Path, *, seconds: float = 0.0, flags: int = os.O_RDWR | os.O_CREAT
) -> AbstractContextManager[int]:
    """Keep every other process and thread that asks for the same out; gives the open descriptor.

    The lock is held when this returns, until its context is left or the process ends, however it
    ends. Advisory (flock). `path` is a file, made when it is not there; with O_DIRECTORY a folder.

    Raises:
        BlockingIOError: another one held it for all of `seconds`.
        OSError: it cannot be locked.
    """
    descriptor = os.open(demand_file(path), flags, 0o600)
    try:
        _acquire(descriptor, time.monotonic() + seconds)
    except BaseException:
        os.close(descriptor)
        raise
    return _held(descriptor)


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Hold `path` with this process's number in it; PrivetError when another process holds it."""
    try:
        lock = locked(path)
    except BlockingIOError:
        holder = path.read_bytes()[:20].decode("ascii", errors="replace").strip()
        raise PrivetError(f"{path.parent} is in use by process {holder or 'unknown'}") from None
    except OSError as error:
        raise PrivetError(f"{path} cannot be locked ({error.strerror})") from None
    with lock as descriptor:
        with suppress(OSError):  # a full disk: the lock holds without the number
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            # Whoever is refused next is not to read the number of a process that is gone.
            os.ftruncate(descriptor, 0)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN)}.part")


def _stream(path: Path) -> BinaryIO | None:
    """Where to write what cannot be replaced; None where a file can be."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    for number, standard in ((1, sys.stdout), (2, sys.stderr)):
        # Also a file: to replace it would lose what was or will be printed there.
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(number)):
                standard.flush()
                return os.fdopen(os.dup(number), "wb")
    if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        return None
    try:
        # Opening a pipe would wait for a reader; writing, further down, may.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        nobody = error.errno == errno.ENXIO
        reason = "nobody reads from this pipe" if nobody else str(error.strerror)
        raise NotAFile(path, reason) from None
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def _acquire(descriptor: int, deadline: float) -> None:
    # flock has no timeout of its own.
    pause = 0.0005
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


@contextmanager
def _held(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        # Explicitly: a child that was forked in between shares the descriptor and would keep it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
