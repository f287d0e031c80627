"""A federation of three silos that trust each other's keys, and a stranger."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privet.privacy.encryption.keys import (
    AgreementKey,
    Member,
    Offers,
    Roster,
    RunKey,
    Secret,
    Session,
    gather,
    make_offer,
)
from privet.privacy.ledger import SiloKey


@dataclass(frozen=True)
class Federation:
    identities: dict[str, SiloKey]
    session: Session
    agreements: dict[str, AgreementKey]
    messages: dict[str, bytes]
    """Key offers, by silo."""
    offers: Offers
    key: RunKey

    def wrapped(self) -> dict[str, bytes]:
        name = self.offers.elected
        return dict(
            self.key.wrapped(
                offers=self.offers,
                name=name,
                identity=self.identities[name],
                agreement=self.agreements[name],
            )
        )


def new_identity() -> SiloKey:
    return SiloKey(Ed25519PrivateKey.generate())


def federation_of(
    names: tuple[str, ...] = ("ada", "bob", "cleo"),
    *,
    run: str = "run-1",
    epoch: int = 1,
    identities: dict[str, SiloKey] | None = None,
    roster: Roster | None = None,
    container: int = 500,
) -> Federation:
    identities = identities or {name: new_identity() for name in names}
    roster = roster or Roster(tuple(Member(name, key.public) for name, key in identities.items()))
    session = Session(run=run, epoch=epoch, roster=roster)
    made = {
        name: make_offer(session=session, name=name, identity=key)
        for name, key in identities.items()
    }
    offers = gather([offer for _, offer in made.values()], session=session)
    return Federation(
        identities=identities,
        session=session,
        agreements={name: agreement for name, (agreement, _) in made.items()},
        messages={name: offer for name, (_, offer) in made.items()},
        offers=offers,
        key=RunKey.create(offers=offers, since=1, container=Secret.random(container)),
    )


@pytest.fixture
def identity():
    return new_identity


@pytest.fixture
def build():
    return federation_of


@pytest.fixture
def federation() -> Federation:
    return federation_of()


def altered(message: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """`message` with damage of a random kind, or one of `others`, or a piece of one."""
    cut = rng.randrange(len(message) + 1)
    flipped = bytearray(message)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        flipped[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
    other = rng.choice(others)
    start, end = sorted(rng.randrange(len(message) + 1) for _ in range(2))
    made = [
        rng.randbytes(rng.randrange(300)),
        message[:cut],
        message[cut:],
        message + rng.randbytes(rng.randrange(1, 80)),
        bytes(flipped),
        bytes(flipped),
        other,
        message[:cut] + other[cut:],
        other[:cut] + message[cut:],
        message[:start] + message[end:],
        message[:start] + rng.randbytes(end - start) + message[end:],
        message[:cut] + b"\xff\xff\xff\xff" + message[cut + 4 :],
    ]
    return rng.choice(made)


def reject_all(
    message: bytes,
    others: list[bytes],
    read: Callable[[bytes], object],
    *,
    error: type[Exception],
    cases: int,
) -> None:
    """Insist that `read` takes `message` and refuses every other one with exactly `error`."""
    read(message)
    rng = random.Random(len(message))
    for made in (altered(message, others, rng) for _ in range(cases)):
        if made == message:
            continue
        try:
            read(made)
        except Exception as raised:
            if type(raised) is not error or "\n" in str(raised):
                raise
        else:
            raise AssertionError(f"accepted {made.hex()} for {message.hex()}")


@pytest.fixture
def fuzz():
    return reject_all


@pytest.fixture
def damage():
    return altered
