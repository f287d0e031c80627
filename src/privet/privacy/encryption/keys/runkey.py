"""The key of one epoch, as every silo that takes part holds it.

Limit: all holders have the same key. One that sides with the server can read every single update of
that epoch, unless pairwise masks (privet.privacy.encryption.masks) are on as well.

When the key is changed: a rule that server and silos work out alike, each for itself.

The server only proposes. A silo applies the rule to what it knows (the age of its key, the verified
offers, its own tags) and does not go on with a key that the rule retires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from privet.privacy.encryption.errors import KeyFileError, KeysError, MessageError
from privet.privacy.encryption.keys.agreement import AgreementKey, derive
from privet.privacy.encryption.keys.keyfile import read_key, write_key
from privet.privacy.encryption.keys.offers import Offers, unwrap, wrap
from privet.privacy.encryption.keys.roster import Fields, Session, check_numbers, counted, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.ledger.keys import SiloKey

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
