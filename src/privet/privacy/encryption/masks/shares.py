"""A silo's two secrets, shared among the others under encryption that the server cannot open.

The message to a peer holds one share of the personal seed and one of the mask key. It is encrypted
under a key that both silos derive from their adverted keys, which authenticates the sender as well,
and which is bound to the plan, both names and all adverts.

Secret sharing is Shamir's (CACM 1979): any `threshold` shares give the secret, fewer give nothing.
A secret of 32 bytes is a number below 2^256; the arithmetic is modulo the smallest prime above it,
so a share has 33 bytes whatever the secret is. The shares of fewer than `threshold` places have the
same distribution for every secret. A wrong share gives a wrong secret, or MessageError; whoever
joins shares needs another way to know (here: a public key, or a commitment).

A mask is grown from a seed of 32 bytes that is bound to the round, the silos and all adverts: the
keystream of ChaCha20 (RFC 8439), read as 4096 numbers of 16 bits, least byte first. It hides the
secret of an upload, whatever the length of the update. A seed is used for one stream only, so the
nonce is zero.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from privet.privacy.encryption.backend import DEGREE, Mask
from privet.privacy.encryption.errors import MaskError, MessageError, TooFewSilos
from privet.privacy.encryption.keys.agreement import AgreementKey, decrypt, derive, encrypt
from privet.privacy.encryption.keys.roster import Fields, pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.statements import Adverts, RoundPlan

PRIME = 2**256 + 297
SECRET = 32
SHARE = 33
"""Bytes."""


def split(secret: Secret, *, threshold: int, places: Collection[int]) -> dict[int, Secret]:
    """A share of `secret` for each place; places are different numbers of 1 or more.

    MaskError for a threshold that is not between 1 and the number of places.
    """
    if not 1 <= threshold <= len(places):
        raise MaskError(f"threshold = {threshold} is outside 1 to {len(places)}")
    if len(secret) != SECRET or min(places) < 1 or len(set(places)) < len(places):
        raise MaskError("what is shared has 32 bytes, and places are different numbers from 1")
    polynomial = [int.from_bytes(secret.reveal(), "big")]
    # Zero included, also in front: without it `threshold` - 1 shares would rule one secret out.
    polynomial += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return {place: _share(polynomial, place) for place in places}


def join(shares: Mapping[int, Secret], *, threshold: int) -> Secret:
    """The secret behind the shares, which are by place; of more than `threshold`, some are used.

    TooFewSilos for fewer; MessageError when no secret of 32 bytes has these shares.
    """
    if len(shares) < threshold:
        raise TooFewSilos(f"{len(shares)} shares are fewer than the threshold of {threshold}")
    # Exactly `threshold`: more points would interpolate the same secret more slowly.
    places = sorted(shares)[:threshold]
    value = 0
    for place in places:
        share = int.from_bytes(shares[place].reveal(), "big")
        value = (value + share * _weight(place, places)) % PRIME
    try:
        return Secret(value.to_bytes(SECRET, "big"))
    except OverflowError:
        raise MessageError("shares refused: together they are no secret") from None


def _share(polynomial: list[int], place: int) -> Secret:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return Secret(value.to_bytes(SHARE, "big"))


def _weight(place: int, places: list[int]) -> int:
    """Lagrange's weight of `place`, at zero."""
    above = below = 1
    for other in places:
        if other != place:
            above = above * other % PRIME
            below = below * (other - place) % PRIME
    return above * pow(below, -1, PRIME) % PRIME


TITLE = "privet mask share 1"


@dataclass(frozen=True)
class HeldShares:
    """What one silo holds of another's secrets: one share of each. Only one may ever be shown."""

    personal: Secret
    pair: Secret


def write_share(
    held: HeldShares, *, adverts: Adverts, sender: str, recipient: str, cipher: AgreementKey
) -> bytes:
    """The encrypted shares from silo `sender`, whose key for them is `cipher`."""
    # The key depends on who sends: the same two silos share another one in the other direction.
    facts = _facts(adverts, sender, recipient)
    key = cipher.agree(adverts.of(recipient).cipher, info=facts)
    box = encrypt(held.personal.reveal() + held.pair.reveal(), key=key, bound=facts)
    return pack(TITLE, sender, recipient, adverts.digest, box)


def read_share(
    message: bytes, *, adverts: Adverts, sender: str, recipient: str, cipher: AgreementKey
) -> HeldShares:
    """What silo `sender` dealt to silo `recipient`, whose key for shares is `cipher`.

    MessageError for a message between others, one about other adverts, or any change.
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
    return HeldShares(Secret(opened[:SHARE]), Secret(opened[SHARE:]))


def _facts(adverts: Adverts, sender: str, recipient: str) -> bytes:
    return pack("privet mask share facts 1", sender, recipient, adverts.digest)


def personal_commitment(plan: RoundPlan, name: str, personal: Secret) -> bytes:
    """32 bytes that fix the personal seed of silo `name` and, it being random, do not show it."""
    facts = *plan.session.facts, *plan.facts, name
    return derive(personal, info=pack("privet personal commitment 1", *facts)).reveal()


def personal_stream(adverts: Adverts, name: str, personal: Secret) -> Secret:
    """The seed of the mask that silo `name` adds by itself."""
    return derive(personal, info=pack("privet personal mask 1", name, adverts.digest))


def pair_stream(adverts: Adverts, name: str, key: AgreementKey, peer: str) -> Secret:
    """The seed that silo `name`, with its mask key, shares with silo `peer`; the same for both."""
    pair = sorted((name, peer))  # both ends must derive the same
    info = pack("privet pair mask 1", *pair, adverts.digest)
    return key.agree(adverts.of(peer).mask, info=info)


def pair_sign(name: str, peer: str) -> int:
    """Whether silo `name` adds or subtracts what it shares with `peer`: by order of the names."""
    return 1 if name < peer else -1


def no_mask() -> Mask:
    """Zeros, to which streams are added."""
    return np.zeros(DEGREE, dtype=np.uint16)


def add_stream(total: Mask, seed: Secret, *, sign: int) -> None:
    """Add `sign` (1 or -1) times the stream of `seed` to `total`, modulo 2^16."""
    # 16 bytes of zeros: block counter and nonce, both from zero, as each seed has one stream.
    keystream = Cipher(ChaCha20(seed.reveal(), bytes(16)), mode=None).encryptor()
    numbers = np.frombuffer(keystream.update(bytes(total.nbytes)), dtype="<u2")
    combine = np.add if sign > 0 else np.subtract
    combine(total, numbers, out=total)
