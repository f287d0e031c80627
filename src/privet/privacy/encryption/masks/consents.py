"""Which silos survived: a list that enough silos must have signed before any of them reveals.

Without it, a server could tell some silos that a silo dropped out and others that it survived, and
put together from their answers what no single silo would give.
"""

from __future__ import annotations

from collections.abc import Iterable

from privet.privacy.encryption.keys.errors import MessageError
from privet.privacy.encryption.keys.fields import Fields, counted
from privet.privacy.encryption.keys.signed import read_signed, write_signed
from privet.privacy.encryption.masks.adverts import Adverts
from privet.privacy.encryption.masks.errors import TooFewSilos
from privet.privacy.ledger.keys import SiloKey

TITLE = "privet mask consent 1"
LARGEST = 100_000
"""Bytes of a consent."""


def write_consent(
    survivors: tuple[str, ...], *, adverts: Adverts, name: str, identity: SiloKey
) -> bytes:
    """The statement of silo `name` that it will unmask the sum of these silos, and no other."""
    values = adverts.digest, *counted(survivors)
    session = adverts.plan.session
    return write_signed(TITLE, *values, session=session, name=name, identity=identity)


def read_consent(message: bytes, *, adverts: Adverts) -> tuple[str, tuple[str, ...]]:
    """Who consented, and to which survivors; MessageError unless it is about these adverts."""
    name, fields = read_signed(message, TITLE, session=adverts.plan.session, most=LARGEST)
    survivors = read_survivors(fields, adverts=adverts, name=name)
    fields.end()
    return name, survivors


def read_survivors(fields: Fields, *, adverts: Adverts, name: str) -> tuple[str, ...]:
    """The part that consents and reveals have in common; MessageError if it is about other adverts
    (their digest covers the plan), or the survivors are not silos of which `name` is one."""
    if fields.blob(size=32) != adverts.digest:
        raise fields.fault(f"silo {name!r} was shown other mask adverts, or it is a replay")
    survivors = fields.names()
    if survivors != adverts.survivors(survivors) or name not in survivors:
        raise fields.fault(f"silo {name!r} does not list itself and others in order")
    return survivors


def check_consents(
    messages: Iterable[bytes], *, survivors: tuple[str, ...], adverts: Adverts
) -> None:
    """TooFewSilos unless at least `threshold` silos consented to exactly these survivors.

    MessageError for a refused consent, a silo's second one, or one to another list.
    """
    names: set[str] = set()
    for message in messages:
        name, theirs = read_consent(message, adverts=adverts)
        if theirs != survivors:
            raise MessageError(f"silo {name!r} consented to other survivors: nothing is revealed")
        if name in names:
            raise MessageError(f"silo {name!r} appears with two consents")
        names.add(name)
    if len(names) < adverts.plan.threshold:
        raise TooFewSilos(
            f"{len(names)} consents are fewer than the threshold of {adverts.plan.threshold}"
        )
