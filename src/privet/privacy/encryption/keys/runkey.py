"""The key of one epoch, as every silo that takes part holds it.

Limit: all holders have the same key. One that sides with the server can read every single update of
that epoch, unless pairwise masks (privet.privacy.encryption.masks) are on as well.

When the key is changed is a rule (`rotation`) that server and silos work out alike. A silo applies
it to what it knows: it begins no round with a key that has served its rounds or whose tags failed.
Which silos take part is the server's to say.

Keys are kept on disk, for a process that is started anew for every message. A file has mode 0600
and belongs to the user who runs the silo; one that others may read, or that somebody else owns, is
refused, and so is a link. A new file takes the place of the old one in a single step and is on disk
when the call returns: after a crash there is the old key or the new one. A checksum finds damage.
It is no signature: who may write the file could put in a key of their own, but they could read the
key as well. The content is not encrypted; the disk should be.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from privet.files import leftovers, locked, replacing, sync
from privet.privacy.encryption.errors import KeyFileError, KeysError, MessageError
from privet.privacy.encryption.keys.agreement import AgreementKey, derive
from privet.privacy.encryption.keys.messages import Offers, unwrap, wrap
from privet.privacy.encryption.keys.roster import Fields, Session, check_numbers, counted, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.ledger.keys import SiloKey

LARGEST = 4_000_000
"""Bytes of a key file."""

_FILE_TITLE = "privet key file 1"
_CHECKSUM = 32
_AGREEMENT = "agreement key"


def write_key(path: Path, secret: Secret, *, kind: str, session: Session) -> None:
    """Keep `secret` in `path`, in place of what was there. KeyFileError if it cannot be written."""
    content = _content(secret, kind, session)
    try:
        if path.is_symlink():  # a key is never written where a link leads
            path.unlink()
        with replacing(path, mode=0o600, durable=True) as part:
            part.write_bytes(content)
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be written ({error.strerror})") from None


def swap_key(
    path: Path, secret: Secret, *, old: Secret | None, kind: str, session: Session
) -> None:
    """As `write_key`, if the file still holds `old` (None: if there is none), else KeyFileError.

    Of several processes that start from the same file, one succeeds.
    """
    with alone_in(path.parent):
        if find_key(path, kind=kind, session=session) != old:
            raise KeyFileError(f"{path} was changed meanwhile by another process")
        write_key(path, secret, kind=kind, session=session)
        # Of a process that died at it: secrets that this step may have to leave behind.
        for each in leftovers(path):
            each.unlink(missing_ok=True)


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
        for each in [path, *leftovers(path)]:
            each.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be removed ({error.strerror})") from None


def write_agreement(path: Path, key: AgreementKey, *, session: Session) -> None:
    """Keep the private key of a key offer until the wrapped key comes."""
    write_key(path, key.secret(), kind=_AGREEMENT, session=session)


def read_agreement(path: Path, *, session: Session) -> AgreementKey:
    """What `write_agreement` kept; KeyFileError as for `read_key`."""
    secret = read_key(path, kind=_AGREEMENT, session=session)
    if len(secret) != 32:
        raise KeyFileError(f"{path}: it holds no agreement key")
    return AgreementKey.from_secret(secret)


def _content(secret: Secret, kind: str, session: Session) -> bytes:
    body = pack(_FILE_TITLE, kind, *session.facts, secret.reveal())
    if len(body) + _CHECKSUM > LARGEST:
        raise KeysError(f"a secret of {len(secret)} bytes is too long for a key file")
    return body + hashlib.sha256(body).digest()


def _secret(content: bytes, kind: str, session: Session) -> Secret:
    fields = Fields(content, _FILE_TITLE, without=_CHECKSUM)
    body, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if hashlib.sha256(body).digest() != checksum:
        raise fields.fault("it is damaged")
    if fields.blob() != kind.encode():
        raise fields.fault(f"it holds no {kind}")
    session.check(fields)
    secret = Secret(fields.blob())
    fields.end()
    return secret


def alone_in(folder: Path) -> AbstractContextManager[int]:
    """Keep other processes that ask for the same out; KeyFileError where there is no folder."""
    try:
        # The folder: a lock on a key file would go with the file that is replaced.
        return locked(folder, seconds=math.inf, flags=os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{folder}: keys cannot be kept there ({error.strerror})") from None


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


FIRST_EPOCH = 1


class Reason(StrEnum):
    """Why a new key is needed."""

    START = "the run has no key yet"
    TAGS = "the tags of a decrypted sum did not match"
    MEMBERS = "the silos that take part have changed"
    ROUNDS = "the key has served its rounds"


@dataclass(frozen=True, kw_only=True)
class KeyAge:
    """What may be known in public about the key in use."""

    epoch: int
    since: int
    """The first round that used it."""
    members: tuple[str, ...]
    """The silos that hold it."""


@dataclass(frozen=True)
class Rotation:
    """A new key is needed, for this epoch; of several reasons, the weightiest."""

    epoch: int
    reason: Reason


def rotation(
    age: KeyAge | None, *, round: int, present: Collection[str], tags_failed: bool, every: int
) -> Rotation | None:
    """Whether `round` needs a new key, and which epoch that is; None to keep the one in use.

    `present` are the silos that take part from here on. One that comes must not be given the key of
    rounds it was not in, and one that has left still holds the key; one that only misses a round
    can be counted as present, and the key stays. `every` is the most rounds that a key serves.
    Pure; KeysError for settings without a meaning and for a round before the key.
    """
    if every < 1:
        raise KeysError(f"a key serves 1 round or more, not {every}")
    if age is None:
        return Rotation(FIRST_EPOCH, Reason.START)
    if round < age.since:
        raise KeysError(f"round {round} is before round {age.since}, which first used the key")
    reason = _reason(age, round, frozenset(present), tags_failed, every)
    return None if reason is None else Rotation(age.epoch + 1, reason)


def _reason(
    age: KeyAge, round: int, present: frozenset[str], tags_failed: bool, every: int
) -> Reason | None:
    # Weightiest first: after a forged sum the key must go whatever else holds.
    if tags_failed:
        return Reason.TAGS
    if present != frozenset(age.members):
        return Reason.MEMBERS
    return Reason.ROUNDS if round - age.since >= every else None


_TITLE = "privet run key 1"
_KIND = "run key"


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What the silos of one epoch share. It cannot be pickled, and its `repr` shows no secret."""

    session: Session
    members: tuple[str, ...]
    """The silos that it was made for, in the order of the roster."""
    since: int
    """The first round that uses it."""
    container: Secret
    """The secret key of the homomorphic encryption, in whatever form its library has."""
    transport: Secret
    """32 bytes from which `id` is derived."""

    def __post_init__(self) -> None:
        check_numbers(since=self.since)
        if len(self.transport) != 32:
            raise KeysError(f"the transport key has {len(self.transport)} bytes instead of 32")
        if self.session.roster.ordered(self.members) != self.members:
            raise KeysError("the members are not in the order of the roster")

    @classmethod
    def create(cls, *, offers: Offers, since: int, container: Secret) -> RunKey:
        """A key around `container` for the silos that made `offers`, with a new transport key."""
        return cls(
            session=offers.session,
            members=offers.present,
            since=since,
            container=container,
            transport=Secret.random(32),
        )

    @property
    def age(self) -> KeyAge:
        """What the rotation rule has to know."""
        return KeyAge(epoch=self.session.epoch, since=self.since, members=self.members)

    @property
    def id(self) -> str:
        """32 hexadecimal digits that may be published: holders of the same key have the same."""
        # Under the transport key, so that what is published says nothing about the secret key.
        inside = hashlib.sha256(self.container.reveal()).digest()
        info = pack("privet run key id 1", *self.session.facts, inside)
        return derive(self.transport, info=info).reveal()[:16].hex()

    def wrapped(
        self, *, offers: Offers, name: str, identity: SiloKey, agreement: AgreementKey
    ) -> Mapping[str, bytes]:
        """The key for each other silo, by name; see `wrap`. KeysError if `offers` are of others."""
        if (offers.session, offers.present) != (self.session, self.members):
            raise KeysError("the key was made for other silos or another epoch than the offers")
        secret = self._secret()
        return wrap(secret, offers=offers, name=name, identity=identity, agreement=agreement)

    @classmethod
    def unwrapped(
        cls, message: bytes, *, offers: Offers, name: str, agreement: AgreementKey
    ) -> RunKey:
        """The key that the elected silo sent to silo `name`; see `unwrap`."""
        secret = unwrap(message, offers=offers, name=name, agreement=agreement)
        key = cls._from_secret(secret, session=offers.session)
        # The elected silo could have given the key to others than those that all silos saw.
        if key.members != offers.present:
            raise Fields(secret.reveal(), _TITLE).fault("it names other members than the offers")
        return key

    def save(self, path: Path) -> None:
        """Keep the key in a file of mode 0600, in place of an older one; durable on return."""
        write_key(path, self._secret(), kind=_KIND, session=self.session)

    @classmethod
    def load(cls, path: Path, *, session: Session) -> RunKey:
        """The key in `path`; KeyFileError as for `read_key`."""
        secret = read_key(path, kind=_KIND, session=session)
        try:
            return cls._from_secret(secret, session=session)
        except MessageError as error:
            raise KeyFileError(f"{path}: {error}") from None

    def _secret(self) -> Secret:
        held = self.container.reveal(), self.transport.reveal()
        facts = self.session.facts
        return Secret(pack(_TITLE, *facts, self.since, *counted(self.members), *held))

    @classmethod
    def _from_secret(cls, secret: Secret, *, session: Session) -> RunKey:
        fields = Fields(secret.reveal(), _TITLE)
        session.check(fields)
        since, members = fields.number(), fields.names()
        container, transport = Secret(fields.blob()), Secret(fields.blob(size=32))
        fields.end()
        held = {"container": container, "transport": transport}
        try:
            return cls(session=session, members=members, since=since, **held)
        except KeysError as error:
            raise fields.fault(str(error)) from None
