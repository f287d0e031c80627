"""Silos that mask together, taken as far as a test needs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privet.privacy.encryption.backend import DEGREE
from privet.privacy.encryption.keys import Member, Roster, Session
from privet.privacy.encryption.masks import MaskRound, RoundPlan, correction
from privet.privacy.encryption.masks.rounds import Masked
from privet.privacy.ledger import SiloKey


@dataclass
class Group:
    identities: dict[str, SiloKey]
    plan: RoundPlan
    rounds: dict[str, MaskRound]
    adverts: list[bytes]
    encrypted_shares: dict[str, dict[str, bytes]]
    """By sender, then by recipient."""
    values: dict[str, np.ndarray]
    masked: dict[str, np.ndarray]
    phases: dict[str, Masked]
    """What every silo holds once all have masked."""

    def again(self) -> dict[str, MaskRound]:
        """All silos as they were just after masking, for one more ending of the same round."""
        return {
            name: MaskRound(
                phase, plan=self.plan, name=name, identity=self.identities[name], keep=None
            )
            for name, phase in self.phases.items()
        }

    def shares_for(self, name: str) -> dict[str, bytes]:
        return {
            peer: encrypted_shares[name]
            for peer, encrypted_shares in self.encrypted_shares.items()
            if peer != name and name in encrypted_shares
        }

    def reveals(self, survivors: Iterable[str]) -> list[bytes]:
        survivors, rounds = list(survivors), self.again()
        consents = [rounds[name].consent(survivors) for name in survivors]
        return [rounds[name].reveal(consents) for name in survivors]

    def unmasked(self, survivors: Iterable[str]) -> np.ndarray:
        survivors = list(survivors)
        who, vector = correction(
            plan=self.plan, adverts=self.adverts, reveals=self.reveals(survivors)
        )
        assert who == tuple(survivors)
        return self.without(vector, self.added(self.masked, survivors))

    @property
    def threshold(self) -> int:
        return self.plan.least(len(self.identities))

    def without(self, masks: np.ndarray, total: np.ndarray) -> np.ndarray:
        return total + masks

    def expected(self, survivors: Iterable[str]) -> np.ndarray:
        return self.added(self.values, survivors)

    def added(self, vectors: dict[str, np.ndarray], names: Iterable[str]) -> np.ndarray:
        """By Python's own numbers, one after the other."""
        columns = zip(*(vectors[name].tolist() for name in names), strict=True)
        return np.array([sum(column) % 2**16 for column in columns], dtype=np.uint16)


def group_of(
    silos: int = 4,
    *,
    round: int = 1,
    epoch: int = 1,
    colluding: int = 1,
    threshold: int = 2,
    job: bytes = bytes(32),
    model: bytes = bytes(32),
    noise: str = "",
    masked: bool = True,
    records: int = 0,
    identities: dict[str, SiloKey] | None = None,
    values: dict[str, np.ndarray] | None = None,
) -> Group:
    names = [f"silo-{chr(ord('a') + i)}" for i in range(silos)]
    identities = identities or {name: SiloKey(Ed25519PrivateKey.generate()) for name in names}
    roster = Roster(tuple(Member(name, key.public) for name, key in identities.items()))
    plan = RoundPlan(
        session=Session(run="run-1", epoch=epoch, roster=roster),
        round=round,
        job=job,
        model=model,
        noise=noise,
        threshold=threshold,
        colluding=colluding,
        masked=masked,
    )
    rounds = {
        name: MaskRound.begin(plan=plan, name=name, identity=key, records=records)
        for name, key in identities.items()
    }
    adverts = [each.advert() for each in rounds.values()]
    rng = np.random.default_rng(silos)
    group = Group(
        identities=identities,
        plan=plan,
        rounds=rounds,
        adverts=adverts,
        encrypted_shares={name: each.share(adverts) for name, each in rounds.items()},
        values=values
        or {name: rng.integers(0, 2**16, DEGREE, dtype=np.uint16) for name in identities},
        masked={},
        phases={},
    )
    for name, each in rounds.items():
        mask = each.mask(group.shares_for(name))
        if mask is not None:
            group.masked[name] = group.values[name] + mask
            group.phases[name] = each._at(Masked)
    return group


@pytest.fixture
def build():
    return group_of


@pytest.fixture
def group() -> Group:
    return group_of()
