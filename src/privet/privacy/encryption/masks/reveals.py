"""The shares with which a sum is unmasked: for each silo one share of ONE of its two secrets.

Of a survivor the share of its personal seed, of a dropped silo the share of its mask key. The
format has no room for a second share of a silo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privet.privacy.encryption.keys.fields import Field, counted
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.keys.signed import read_signed, write_signed
from privet.privacy.encryption.masks.adverts import Adverts
from privet.privacy.encryption.masks.consents import read_survivors
from privet.privacy.encryption.masks.shamir import SHARE
from privet.privacy.ledger.keys import SiloKey

TITLE = "privet mask reveal 1"
LARGEST = 200_000
"""Bytes of a reveal."""


@dataclass(frozen=True)
class Reveal:
    """What silo `name` contributes to unmask the sum of `survivors`."""

    name: str
    survivors: tuple[str, ...]
    shares: Mapping[str, Secret]
    """By silo whose secret it is; which secret follows from the survivors."""


def write_reveal(reveal: Reveal, *, adverts: Adverts, identity: SiloKey) -> bytes:
    """The signed contribution; secret, for those whom privet.privacy.encryption.masks names."""
    shares: list[Field] = [reveal.shares[member].reveal() for member in adverts.members]
    return write_signed(
        TITLE,
        adverts.digest,
        *counted(reveal.survivors),
        *shares,
        session=adverts.plan.session,
        name=reveal.name,
        identity=identity,
    )


def read_reveal(message: bytes, *, adverts: Adverts) -> Reveal:
    """The contribution in `message`; MessageError unless a survivor made it for these adverts."""
    name, fields = read_signed(message, TITLE, session=adverts.plan.session, most=LARGEST)
    survivors = read_survivors(fields, adverts=adverts, name=name)
    shares = {member: Secret(fields.blob(size=SHARE)) for member in adverts.members}
    fields.end()
    return Reveal(name, survivors, shares)
