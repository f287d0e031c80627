"""From the reveals of enough survivors to what takes the masks out of the sum.

A reveal holds, for each silo, one share of ONE of its two secrets: of a survivor the share of its
personal seed, of a dropped silo the share of its mask key. The format has no room for a second
share of a silo.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from privet.privacy.encryption.backend import Mask
from privet.privacy.encryption.errors import MessageError, SharesRefused, TooFewSilos
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.roster import Field, counted, read_signed, write_signed
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.shares import (
    SHARE,
    add_stream,
    join,
    no_mask,
    pair_sign,
    pair_stream,
    personal_commitment,
    personal_stream,
)
from privet.privacy.encryption.masks.statements import (
    Adverts,
    RoundPlan,
    gather_adverts,
    read_survivors,
)
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


def correction(
    *, plan: RoundPlan, adverts: Iterable[bytes], reveals: Iterable[bytes]
) -> tuple[tuple[str, ...], Mask]:
    """The survivors, and what is added to their masked sum modulo 2^16 to have the sum itself.

    TooFewSilos for fewer reveals than the threshold;
    MessageError for a refused one, a silo's second one, and ones that disagree about the survivors;
    SharesRefused when a rebuilt secret is not the one that its silo adverted: it dealt wrong
    shares, or another one passed a wrong one on.
    """
    gathered = gather_adverts(adverts, plan=plan)
    found = _gather_reveals(reveals, gathered)
    survivors = found[0].survivors
    total = no_mask()
    for name in gathered.members:
        shares = {gathered.place(each.name): each.shares[name] for each in found}
        secret = _joined(shares, gathered.threshold, name)
        if name in survivors:
            _add_personal(total, gathered, name, secret)
        else:
            _add_pairs(total, gathered, name, secret, survivors)
    return survivors, np.negative(total)


def _gather_reveals(messages: Iterable[bytes], adverts: Adverts) -> list[Reveal]:
    found: dict[str, Reveal] = {}
    for message in messages:
        reveal = read_reveal(message, adverts=adverts)
        if reveal.name in found:
            raise MessageError(f"silo {reveal.name!r} appears with two reveals")
        found[reveal.name] = reveal
    if len(found) < adverts.threshold:
        raise TooFewSilos(
            f"{len(found)} reveals are fewer than the threshold of {adverts.threshold}"
        )
    # Shares of different lists would be of different secrets.
    if len({reveal.survivors for reveal in found.values()}) > 1:
        raise MessageError("reveals refused: they are about different survivors")
    return list(found.values())


def _joined(shares: dict[int, Secret], threshold: int, name: str) -> Secret:
    try:
        return join(shares, threshold=threshold)
    except MessageError:
        raise _wrong(name) from None


def _add_personal(total: Mask, adverts: Adverts, name: str, personal: Secret) -> None:
    """What survivor `name` added by itself."""
    # Found here, wrong shares cost the round; found by the tags, they would look like a forged sum
    # and cost the key as well.
    if personal_commitment(adverts.plan, name, personal) != adverts.of(name).commitment:
        raise _wrong(name)
    add_stream(total, personal_stream(adverts, name, personal), sign=1)


def _add_pairs(
    total: Mask, adverts: Adverts, name: str, secret: Secret, survivors: tuple[str, ...]
) -> None:
    """What the survivors added on account of `name`, whose own update never came."""
    key = AgreementKey.from_secret(secret)
    if key.public != adverts.of(name).mask:
        raise _wrong(name)
    for survivor in survivors:
        seed = pair_stream(adverts, name, key, survivor)
        add_stream(total, seed, sign=pair_sign(survivor, name))


def _wrong(name: str) -> SharesRefused:
    text = f"reveals refused: the shares do not fit the secret of silo {name!r}"
    return SharesRefused(text, dealer=name)
