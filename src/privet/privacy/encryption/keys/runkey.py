"""The key of one epoch, as every silo that takes part holds it.

Limit: all holders have the same key. One that sides with the server can read every single update of
that epoch, unless pairwise masks (privet.privacy.encryption.masks) are on as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privet.privacy.encryption.keys.aead import derive
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.errors import KeyFileError, KeysError, MessageError
from privet.privacy.encryption.keys.fields import Fields, check_numbers, counted, pack
from privet.privacy.encryption.keys.keyfile import read_key, write_key
from privet.privacy.encryption.keys.offers import Offers
from privet.privacy.encryption.keys.rotation import KeyAge
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.keys.session import Session
from privet.privacy.encryption.keys.wrap import unwrap, wrap
from privet.privacy.ledger.keys import SiloKey

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
