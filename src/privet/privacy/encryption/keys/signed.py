"""Messages that a silo of the roster vouches for with its identity key (Ed25519, RFC 8032).

Guarantee: what `read_signed` returns was written by the silo that it names, for this session and
under this title. It does not say when, or how often: a message can be repeated within its session.
"""

from __future__ import annotations

from privet.privacy.encryption.keys.errors import RosterError
from privet.privacy.encryption.keys.fields import Field, Fields, pack
from privet.privacy.encryption.keys.session import Session
from privet.privacy.ledger.keys import SiloKey, signed_by

SIGNATURE = 64
"""Bytes."""


def write_signed(
    title: str, *values: Field, session: Session, name: str, identity: SiloKey
) -> bytes:
    """The message of silo `name`; RosterError when `identity` is not its key."""
    session.check_identity(name, identity)
    body = pack(title, *session.facts, name, *values)
    return body + bytes.fromhex(identity.sign(body))


def read_signed(message: bytes, title: str, *, session: Session, most: int) -> tuple[str, Fields]:
    """Who signed, and the fields they signed, of a message of at most `most` bytes.

    MessageError for any other session, signer or content. The caller reads the fields to their end.
    """
    fields = Fields(message, title, without=SIGNATURE)
    if len(message) > most:
        raise fields.fault(f"it has more than {most} bytes")
    session.check(fields)
    name = fields.name()
    body, signature = message[:-SIGNATURE], message[-SIGNATURE:]
    if not signed_by(_identity(session, name, fields), body, signature.hex()):
        raise fields.fault(f"the signature is not that of silo {name!r}")
    return name, fields


def _identity(session: Session, name: str, fields: Fields) -> str:
    try:
        return session.roster.identity(name)
    except RosterError as error:
        raise fields.fault(str(error)) from None
