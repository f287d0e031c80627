"""From keys to seeds of streams; every seed is bound to the round, the silos and all adverts.

A mask as long as an update, grown from a seed of 32 bytes.

The keystream of ChaCha20 (RFC 8439), read as numbers of 64 bits, least byte first. Each number is
uniform below 2^64, hence uniform modulo any 2^bits, and sums modulo 2^64 may be reduced at the end.
A seed is used for one stream only, so the nonce is zero.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privet.privacy.encryption.keys.agreement import AgreementKey, derive
from privet.privacy.encryption.keys.roster import pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.plan import MaskPlan
from privet.privacy.encryption.masks.statements import Adverts


def personal_commitment(plan: MaskPlan, name: str, personal: Secret) -> bytes:
    """32 bytes that fix the personal seed of silo `name` and, it being random, do not show it."""
    facts = *plan.session.facts, *plan.facts, name
    return derive(personal, info=pack("privet personal commitment 1", *facts)).reveal()


def personal_stream(adverts: Adverts, name: str, personal: Secret) -> Secret:
    """The seed of the mask that silo `name` adds by itself."""
    return derive(personal, info=pack("privet personal mask 1", name, adverts.digest))


def pair_stream(adverts: Adverts, name: str, key: AgreementKey, peer: str) -> Secret:
    """The seed that silo `name`, with its mask key, shares with silo `peer`; the same for both."""
    pair = sorted((name, peer))
    info = pack("privet pair mask 1", *pair, adverts.digest)
    return key.agree(adverts.of(peer).mask, info=info)


def pair_sign(name: str, peer: str) -> int:
    """Whether silo `name` adds or subtracts what it shares with `peer`: by order of the names."""
    return 1 if name < peer else -1


Coefficients = NDArray[np.uint64]

_BLOCK = 1 << 14
"""Numbers at a time: what is added is still in the cache."""
_ZEROS = bytes(8 * _BLOCK)


def add_stream(total: Coefficients, seed: Secret, *, sign: int) -> None:
    """Add `sign` (1 or -1) times the stream of `seed` to `total`, shape (n,), modulo 2^64."""
    keystream = Cipher(ChaCha20(seed.reveal(), bytes(16)), mode=None).encryptor()
    combine = np.add if sign > 0 else np.subtract
    for start in range(0, total.size, _BLOCK):
        block = total[start : start + _BLOCK]
        numbers = np.frombuffer(keystream.update(_ZEROS[: block.nbytes]), dtype="<u8")
        combine(block, numbers, out=block)


def reduced(total: Coefficients, *, bits: int) -> Coefficients:
    """`total` modulo 2^bits."""
    return total & np.uint64(2**bits - 1)
