"""From keys to seeds of streams; every seed is bound to the round, the silos and all adverts."""

from __future__ import annotations

from privet.privacy.encryption.keys.aead import derive
from privet.privacy.encryption.keys.agreement import AgreementKey
from privet.privacy.encryption.keys.fields import pack
from privet.privacy.encryption.keys.secret import Secret
from privet.privacy.encryption.masks.adverts import Adverts
from privet.privacy.encryption.masks.plan import MaskPlan


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
