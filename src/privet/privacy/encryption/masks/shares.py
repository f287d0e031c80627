"""A silo's two secrets, dealt to the others in letters that the server cannot read.

The letter to a peer holds one share of the personal seed and one of the mask key. It is encrypted
under a key that both silos derive from their adverted keys, which authenticates the sender as well,
and which is bound to the plan, both names and all adverts.
"""

from __future__ import annotations

from dataclasses import dataclass

from privet.privacy.encryption.keys.aead import decrypt, encrypt
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.fields import Fields, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.adverts import Adverts
from privet.privacy.encryption.masks.shamir import SHARE

TITLE = "privet mask share 1"


@dataclass(frozen=True)
class Held:
    """What one silo holds of another's secrets: one share of each. Only one may ever be shown."""

    personal: Secret
    pair: Secret


def write_share(
    held: Held, *, adverts: Adverts, sender: str, recipient: str, cipher: AgreementKey
) -> bytes:
    """The letter from silo `sender`, whose key for letters is `cipher`."""
    facts = _facts(adverts, sender, recipient)
    key = cipher.agree(adverts.of(recipient).cipher, info=facts)
    box = encrypt(held.personal.reveal() + held.pair.reveal(), key=key, bound=facts)
    return pack(TITLE, sender, recipient, adverts.digest, box)


def read_share(
    message: bytes, *, adverts: Adverts, sender: str, recipient: str, cipher: AgreementKey
) -> Held:
    """What silo `sender` dealt to silo `recipient`, whose key for letters is `cipher`.

    MessageError for a letter between others, one about other adverts, or any change.
    """
    fields = Fields(message, TITLE)
    names, digest, box = (fields.name(), fields.name()), fields.blob(size=32), fields.blob()
    fields.end()
    if names != (sender, recipient):
        raise fields.fault(f"it is not from silo {sender!r} to silo {recipient!r}")
    if digest != adverts.digest:
        raise fields.fault(f"silo {sender!r} was shown other mask adverts, or it is a replay")
    facts = _facts(adverts, sender, recipient)
    key = cipher.agree(adverts.of(sender).cipher, info=facts)
    opened = decrypt(box, key=key, bound=facts, fields=fields)
    if len(opened) != 2 * SHARE:
        raise fields.fault("it does not hold two shares")
    return Held(Secret(opened[:SHARE]), Secret(opened[SHARE:]))


def _facts(adverts: Adverts, sender: str, recipient: str) -> bytes:
    return pack("privet mask share facts 1", sender, recipient, adverts.digest)
