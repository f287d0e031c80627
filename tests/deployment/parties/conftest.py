"""A project's key and some parties of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privet.deployment.parties import NodeKey, Parties, Party
from privet.privacy.ledger.keys import SiloKey

LATER = datetime(2030, 1, 1, tzinfo=UTC)


def identity(number: int) -> str:
    return silo_key(number).public


def silo_key(number: int) -> SiloKey:
    return SiloKey(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")))


def node_key(number: int) -> str:
    return NodeKey(ec.derive_private_key(number, ec.SECP384R1())).public


@dataclass
class Maker:
    """Makes parties whose keys all differ."""

    key: SiloKey = field(default_factory=lambda: silo_key(1))
    numbers: Any = field(default_factory=lambda: itertools.count(2))

    def party(self, name: str = "north", role: str = "silo", **other: Any) -> Party:
        number = next(self.numbers)
        keys = {"identity": "" if role == "server" else identity(number), "expires": LATER}
        if role == "silo":
            keys["node_key"] = node_key(number)
        return Party(**{"name": name, "role": role, **keys, **other})

    def parties(self, *names: str, version: int = 1, **other: Any) -> Parties:
        members = tuple(self.party(name) for name in names or ("north", "south"))
        return Parties("lungs", version, members)


@pytest.fixture
def maker() -> Maker:
    return Maker()
