"""A secret on its way from the elected silo to each of the others, through a relay.

For each recipient the sender's and the recipient's offered keys give an encryption key (X25519,
HKDF-SHA256) that is bound to the session, both names, both public keys and the digest of all
offers; the ciphertext and these facts are signed with the sender's identity key.

Guarantees to a recipient: the secret comes from the silo that the shared rule elects among the
offers that the recipient itself has verified, it was made for this offer of the recipient, and the
relay could neither read nor change it. Not guaranteed: that other recipients received the same
secret. A silo that is elected holds the key by design; its honesty is assumed, not proved.
"""

from __future__ import annotations

from privet.privacy.encryption.keys.aead import OVERHEAD, decrypt, encrypt
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.errors import KeysError, MessageError
from privet.privacy.encryption.keys.fields import pack
from privet.privacy.encryption.keys.offers import Offers
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.keys.signed import read_signed, write_signed
from privet.privacy.ledger.keys import SiloKey

TITLE = "privet key wrap 1"
LARGEST_SECRET = 1_000_000
"""Bytes."""
_HEADER = 1000


def wrap(
    secret: Secret, *, offers: Offers, name: str, identity: SiloKey, agreement: AgreementKey
) -> dict[str, bytes]:
    """`secret` for every other silo that offered a key: messages by the recipient's name.

    `name` is the silo at hand, `agreement` the private half of its own offer. KeysError when it is
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
            TITLE,
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

    `offers` are those that this silo verified, `agreement` the private half of its own.
    """
    _check_own(offers, name, agreement)
    most = LARGEST_SECRET + OVERHEAD + _HEADER
    sender, fields = read_signed(message, TITLE, session=offers.session, most=most)
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
