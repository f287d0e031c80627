"""Statements about uploads: who sent what for which round, signed with the identity key.

An update that the server adds cannot be hidden from it behind a key, so it is encrypted
homomorphically and vouched for by a signature instead. The statement travels beside the upload.

To the server, `verify_upload` guarantees before anything is parsed or added that a silo of the
roster made exactly these bytes, for this session, round and parameters. It does not guarantee that
they are a sound ciphertext, or that the silo is honest.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from privet.privacy.encryption.errors import KeysError, MessageError
from privet.privacy.encryption.keys.roster import Session, check_numbers, read_signed, write_signed
from privet.privacy.ledger.keys import SiloKey

TITLE = "privet upload 1"
LARGEST = 1000
"""Bytes of a statement."""


@dataclass(frozen=True, kw_only=True)
class UploadStatement:
    """What a silo states about the bytes that it sent."""

    name: str
    round: int
    parameters: bytes
    """SHA-256 of whatever uploads must agree on to be added: parameters, layout, id of the key."""
    size: int
    """Bytes."""
    digest: bytes
    """SHA-256 of the upload."""


def sign_upload(
    payload: bytes | memoryview,
    *,
    session: Session,
    name: str,
    identity: SiloKey,
    round: int,
    parameters: bytes,
) -> bytes:
    """The statement of silo `name` about `payload`; RosterError when `identity` is not its key."""
    check_numbers(round=round)
    if len(parameters) != 32:
        raise KeysError(f"parameters is a digest of 32 bytes, not {len(parameters)}")
    facts = round, parameters, _size(payload), hashlib.sha256(payload).digest()
    return write_signed(TITLE, *facts, session=session, name=name, identity=identity)


def read_statement(
    statement: bytes, *, session: Session, round: int, parameters: bytes
) -> UploadStatement:
    """What was signed. MessageError unless a silo of the roster signed it for this session, round
    and parameters."""
    name, fields = read_signed(statement, TITLE, session=session, most=LARGEST)
    upload = UploadStatement(
        name=name,
        round=fields.number(),
        parameters=fields.blob(size=32),
        size=fields.number(),
        digest=fields.blob(size=32),
    )
    fields.end()
    if upload.round != round:
        raise fields.fault(f"silo {name!r} signed it for round {upload.round}, not {round}")
    if upload.parameters != parameters:
        raise fields.fault(f"silo {name!r} works with other parameters")
    return upload


def verify_upload(
    statement: bytes,
    payload: bytes | memoryview,
    *,
    session: Session,
    round: int,
    parameters: bytes,
) -> UploadStatement:
    """As `read_statement`, and MessageError unless `payload` is what was signed."""
    upload = read_statement(statement, session=session, round=round, parameters=parameters)
    same = _size(payload) == upload.size
    if not (same and hmac.compare_digest(hashlib.sha256(payload).digest(), upload.digest)):
        raise MessageError(f"upload refused: it is not what silo {upload.name!r} signed")
    return upload


def _size(payload: bytes | memoryview) -> int:
    return payload.nbytes if isinstance(payload, memoryview) else len(payload)
