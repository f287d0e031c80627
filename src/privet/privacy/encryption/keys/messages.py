"""What silos say to each other through the server, signed: offers, wrapped keys, upload statements.

An offer is a fresh public key of a silo, for one epoch. The server collects the offers and hands
all of them to every silo. Guarantee of `gather`: each key is from the silo that it names and for
this session; a key that the server swapped, an offer from another run or epoch, and an offer by a
silo that is not on the roster are refused. The server can still leave offers out, or show two silos
different ones; a wrapped key is bound to the digest of the offers that its maker saw, so silos that
were shown different ones part.

A wrapped key is a secret on its way from the elected silo to another. For each recipient the
sender's and the recipient's offered keys give an encryption key (X25519, HKDF-SHA256) that is bound
to the session, both names, both public keys and the digest of all offers; the ciphertext and these
facts are signed with the sender's identity key.

Guarantees to a recipient: the secret comes from the silo that the shared rule elects among the
offers that the recipient itself has verified, it was made for this offer of the recipient, and the
relay could neither read nor change it. Not guaranteed: that other recipients received the same
secret. A silo that is elected holds the key by design; its honesty is assumed, not proved.

An upload statement says who sent what for which round. An update that the server adds cannot be
hidden from it behind a key that authenticates, so it is encrypted homomorphically and a signed
statement travels beside it. To the server, `verify_upload` guarantees before anything is parsed or
added that a silo of the roster made exactly these bytes, for this session, round and parameters. It
does not guarantee that they are a sound ciphertext, or that the silo is honest.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from privet.privacy.encryption.errors import KeysError, MessageError
from privet.privacy.encryption.keys.agreement import (
    OVERHEAD,
    AgreementKey,
    decrypt,
    encrypt,
    read_public,
)
from privet.privacy.encryption.keys.roster import (
    Session,
    check_numbers,
    elect,
    pack,
    read_signed,
    write_signed,
)
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.ledger.keys import SiloKey

OFFER_TITLE = "privet key offer 1"
LARGEST_OFFER = 1000
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
    """A fresh key of silo `name` and the offer that carries its public key.

    The private key stays here, in a key file if the process ends before the answer comes, and is
    deleted once the wrapped key was opened: who obtains it later could open the wrap.
    """
    key = AgreementKey.generate()
    offer = write_signed(OFFER_TITLE, key.public, session=session, name=name, identity=identity)
    return key, offer


def read_offer(message: bytes, *, session: Session) -> Offer:
    """The offer in `message`; MessageError unless a silo of the roster made it for this session."""
    name, fields = read_signed(message, OFFER_TITLE, session=session, most=LARGEST_OFFER)
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


WRAP_TITLE = "privet key wrap 1"
LARGEST_SECRET = 1_000_000
"""Bytes."""
_HEADER = 1000


def wrap(
    secret: Secret, *, offers: Offers, name: str, identity: SiloKey, agreement: AgreementKey
) -> dict[str, bytes]:
    """`secret` for every other silo that offered a key: messages by the recipient's name.

    `name` is the silo at hand, `agreement` the private key of its own offer. KeysError when it is
    not the elected one or the secret is too long; MessageError when `offers` has another key of it.
    """
    if name != offers.elected:
        raise KeysError(f"silo {offers.elected!r} makes the key of this epoch, not {name!r}")
    if len(secret) > LARGEST_SECRET:
        raise KeysError(f"a secret of {len(secret)} bytes is above {LARGEST_SECRET}")
    _check_own(offers, name, agreement)
    others = [other for other in offers.present if other != name]
    return {
        other: write_signed(
            WRAP_TITLE,
            other,
            offers.digest,
            _sealed(secret, offers, name, other, agreement),
            session=offers.session,
            name=name,
            identity=identity,
        )
        for other in others
    }


def unwrap(message: bytes, *, offers: Offers, name: str, agreement: AgreementKey) -> Secret:
    """The secret that the elected silo sent to silo `name`; MessageError for anything else.

    `offers` are those that this silo verified, `agreement` the private key of its own.
    """
    # An older offer of this silo passes `gather` as well, and its private key is gone.
    _check_own(offers, name, agreement)
    most = LARGEST_SECRET + OVERHEAD + _HEADER
    sender, fields = read_signed(message, WRAP_TITLE, session=offers.session, most=most)
    recipient, digest, box = fields.name(), fields.blob(size=32), fields.blob()
    fields.end()
    if sender != offers.elected:
        raise fields.fault(f"it is from silo {sender!r}, but {offers.elected!r} is elected")
    if recipient != name:
        raise fields.fault(f"it is for silo {recipient!r}, not {name!r}")
    if digest != offers.digest:
        raise fields.fault("its maker was shown other key offers than this silo")
    facts = _facts(offers, sender, recipient)
    key = agreement.agree(offers.public(sender), info=facts)
    return Secret(decrypt(box, key=key, bound=facts, fields=fields))


def _sealed(
    secret: Secret, offers: Offers, name: str, other: str, agreement: AgreementKey
) -> bytes:
    facts = _facts(offers, name, other)
    key = agreement.agree(offers.public(other), info=facts)
    return encrypt(secret.reveal(), key=key, bound=facts)


def _facts(offers: Offers, sender: str, recipient: str) -> bytes:
    return pack(
        "privet key wrap facts 1",
        *offers.session.facts,
        sender,
        recipient,
        offers.public(sender),
        offers.public(recipient),
        offers.digest,
    )


def _check_own(offers: Offers, name: str, agreement: AgreementKey) -> None:
    if offers.public(name) != agreement.public:
        raise MessageError(f"the offers hold another key of silo {name!r} than the one kept here")


TITLE = "privet upload 1"
LARGEST_STATEMENT = 1000
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
    name, fields = read_signed(statement, TITLE, session=session, most=LARGEST_STATEMENT)
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
