"""Key offers: a fresh public key of each silo, for one epoch, vouched for by its identity.

The server collects the offers and hands all of them to every silo. Guarantee of `gather`: each key
is from the silo that it names and for this session; a key that the server swapped, an offer from
another run or epoch, and an offer by a silo that is not on the roster are refused. The server can
still leave offers out, or show two silos different ones; a wrapped key is bound to the digest of
the offers that its maker saw, so silos that were shown different ones part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from privet.privacy.encryption.keys.agreement import AgreementKey, read_public
from privet.privacy.encryption.keys.errors import MessageError
from privet.privacy.encryption.keys.fields import pack
from privet.privacy.encryption.keys.roster import elect
from privet.privacy.encryption.keys.session import Session
from privet.privacy.encryption.keys.signed import read_signed, write_signed
from privet.privacy.ledger.keys import SiloKey

TITLE = "privet key offer 1"
LARGEST = 1000
"""Bytes of an offer."""


@dataclass(frozen=True)
class Offer:
    """The X25519 public key (32 bytes) that silo `name` made for this epoch."""

    name: str
    public: bytes


@dataclass(frozen=True)
class Offers:
    """The verified offers of one epoch, in the order of the roster; made by `gather`."""

    session: Session
    offers: tuple[Offer, ...]

    @property
    def present(self) -> tuple[str, ...]:
        """The silos that offered a key."""
        return tuple(offer.name for offer in self.offers)

    @property
    def elected(self) -> str:
        """The silo that makes the key of this epoch."""
        return elect(self.session.roster, self.present)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes, equal for silos that saw the same offers."""
        values = [field for offer in self.offers for field in (offer.name, offer.public)]
        return hashlib.sha256(pack("privet key offers 1", *self.session.facts, *values)).digest()

    def public(self, name: str) -> bytes:
        """The key that silo `name` offered; MessageError when it offered none."""
        for offer in self.offers:
            if offer.name == name:
                return offer.public
        raise MessageError(f"silo {name!r} has offered no key for this epoch")


def make_offer(*, session: Session, name: str, identity: SiloKey) -> tuple[AgreementKey, bytes]:
    """A fresh key of silo `name` and the offer that carries its public half.

    The private half stays here, in a key file if the process ends before the answer comes, and is
    deleted once the wrapped key was opened: who obtains it later could open the wrap.
    """
    key = AgreementKey.generate()
    offer = write_signed(TITLE, key.public, session=session, name=name, identity=identity)
    return key, offer


def read_offer(message: bytes, *, session: Session) -> Offer:
    """The offer in `message`; MessageError unless a silo of the roster made it for this session."""
    name, fields = read_signed(message, TITLE, session=session, most=LARGEST)
    offer = Offer(name, read_public(fields, name))
    fields.end()
    return offer


def gather(messages: Iterable[bytes], *, session: Session) -> Offers:
    """All offers of an epoch; MessageError for a refused one, a silo's second one, or none."""
    by_name: dict[str, Offer] = {}
    for message in messages:
        offer = read_offer(message, session=session)
        if offer.name in by_name:
            raise MessageError(f"silo {offer.name!r} appears with two key offers")
        by_name[offer.name] = offer
    if not by_name:
        raise MessageError("there is no key offer")
    return Offers(session, tuple(by_name[name] for name in session.roster.ordered(by_name)))
