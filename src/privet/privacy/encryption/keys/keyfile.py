"""Keys on disk, for a process that is started anew for every message.

A file has mode 0600 and belongs to the user who runs the silo; one that others may read, or that
somebody else owns, is refused, and so is a link. A new file takes the place of the old one in a
single step and is on disk when the call returns: after a crash there is the old key or the new one.
A checksum finds damage. It is no signature: who may write the file could put in a key of their own,
but they could read the key as well. The content is not encrypted; the disk should be.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from privet.privacy.encryption.errors import KeyFileError, KeysError, MessageError
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.roster import Fields, Session, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.ledger.files import sync_folder

LARGEST = 4_000_000
"""Bytes of a key file."""

_TITLE = "privet key file 1"
_CHECKSUM = 32
_AGREEMENT = "agreement key"
_TOKEN = 16 * "[0-9a-f]"


def write_key(path: Path, secret: Secret, *, kind: str, session: Session) -> None:
    """Keep `secret` in `path`, in place of what was there. KeyFileError if it cannot be written."""
    content = _content(secret, kind, session)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.draft")
    try:
        _create(draft, content)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def swap_key(
    path: Path, secret: Secret, *, old: Secret | None, kind: str, session: Session
) -> None:
    """As `write_key`, if the file still holds `old` (None: if there is none), else KeyFileError.

    Of several processes that start from the same file, one succeeds.
    """
    with _alone_in(path.parent):
        if find_key(path, kind=kind, session=session) != old:
            raise KeyFileError(f"{path} was changed meanwhile by another process")
        write_key(path, secret, kind=kind, session=session)


def read_key(path: Path, *, kind: str, session: Session) -> Secret:
    """What `write_key` was given. KeyFileError when it is missing, open to others, damaged, or of
    another kind or session."""
    content = _private_content(path)
    try:
        return _secret(content, kind, session)
    except MessageError as error:
        raise KeyFileError(f"{path}: {error}") from None


def find_key(path: Path, *, kind: str, session: Session) -> Secret | None:
    """As `read_key`, but None when there is nothing at `path`."""
    return read_key(path, kind=kind, session=session) if os.path.lexists(path) else None


def forget_key(path: Path) -> None:
    """Remove the file, durably, and what a crash may have left beside it; fine if there is none.

    The blocks of a disk may keep the content; deleting protects from later readers of the folder.
    """
    try:
        drafts = path.parent.glob(f"{escape(path.name)}.{_TOKEN}.draft")
        for each in [path, *drafts]:
            each.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be removed ({error.strerror})") from None


def write_agreement(path: Path, key: AgreementKey, *, session: Session) -> None:
    """Keep the private half of a key offer until the wrapped key comes."""
    write_key(path, key.secret(), kind=_AGREEMENT, session=session)


def read_agreement(path: Path, *, session: Session) -> AgreementKey:
    """What `write_agreement` kept; KeyFileError as for `read_key`."""
    secret = read_key(path, kind=_AGREEMENT, session=session)
    if len(secret) != 32:
        raise KeyFileError(f"{path}: it holds no agreement key")
    return AgreementKey.from_secret(secret)


def _content(secret: Secret, kind: str, session: Session) -> bytes:
    body = pack(_TITLE, kind, *session.facts, secret.reveal())
    if len(body) + _CHECKSUM > LARGEST:
        raise KeysError(f"a secret of {len(secret)} bytes is too long for a key file")
    return body + hashlib.sha256(body).digest()


def _secret(content: bytes, kind: str, session: Session) -> Secret:
    fields = Fields(content, _TITLE, without=_CHECKSUM)
    body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if hashlib.sha256(body).digest() != checksum:
        raise fields.fault("it is damaged")
    if fields.blob() != kind.encode():
        raise fields.fault(f"it holds no {kind}")
    session.check(fields)
    secret = Secret(fields.blob())
    fields.end()
    return secret


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out; ends with the process, however it ends."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"{folder}: keys cannot be kept there ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Explicitly: a child that was forked in between shares the descriptor and would keep it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _create(draft: Path, content: bytes) -> None:
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _private_content(path: Path) -> bytes:
    try:
        # Not blocked by a pipe, not led elsewhere by a link; then judged by what is open, not by
        # the name, which could change its meaning in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_private(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: there is no such key file") from None
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be read ({error.strerror})") from None


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is not a file")
    if status.st_uid != os.geteuid():
        raise KeyFileError(f"{path} belongs to another user: a key is for its owner only")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyFileError(f"{path} has mode {mode:04o}: others may read the key; chmod 600 it")
    if status.st_size > LARGEST:
        raise KeyFileError(f"{path} has more than {LARGEST} bytes: that is no key file")
