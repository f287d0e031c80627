"""Orders: what an administrator asks silos to do, and to do no more; passed on by the server.

A silo believes the order and not the server: who asks, and the whole experiment, are what the
administrator signed. The server can withhold an order or send it again (then it is the same job in
a silo's ledger, whose rounds go on from where they are), until it ends; it can neither change one
nor make one up. The word that cancels a job is signed as well, and silos keep it.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

from privet.deployment.parties.parties import Parties
from privet.deployment.parties.requests import Denied
from privet.experiment import Experiment
from privet.privacy.ledger.keys import SiloKey, signed_by

LARGEST = 1_000_000
"""Characters of an order."""
DAYS = 30.0
"""From an order to its end, unless its maker says otherwise."""
LONGEST_DAYS = 3650
"""Till its end; a data holder's policy may allow less."""
ORDER_KEY = "privet-order"
"""Where a Flower run config carries the order."""
# Short enough to type, and as a number it fits the run ids of Flower.
_ID_BYTES = 6


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job, as `requester` asked for it."""

    project: str
    job: str
    """12 hexadecimal digits that no other job has."""
    requester: str
    at: float
    """Seconds since 1970."""
    until: float
    """Seconds since 1970; after that nothing of the job is done any more."""
    experiment: Mapping[str, Any]
    """The settings that were set."""

    @classmethod
    def create(
        cls, experiment: Experiment, *, project: str, requester: str, days: float = DAYS
    ) -> Self:
        """A new job, which ends after so many days."""
        now = time.time()
        return cls(
            project=project,
            job=secrets.token_hex(_ID_BYTES),
            requester=requester,
            at=now,
            until=now + days * 86400,
            experiment=experiment.model_dump(mode="json", exclude_unset=True),
        )

    def signed(self, identity: SiloKey) -> str:
        """The order as it travels."""
        return _signed("order", asdict(self), identity)

    @property
    def digest(self) -> str:
        """SHA-256 of all that is signed: what tells two orders with one number apart."""
        return hashlib.sha256(_facts("order", asdict(self))).hexdigest()

    @property
    def end(self) -> datetime:
        """`until` as a date."""
        return datetime.fromtimestamp(self.until, UTC)

    def settings(self) -> Experiment:
        """The experiment; ExperimentError for one that this version of privet does not know."""
        return Experiment.from_mapping(self.experiment)


def read_order(text: str, parties: Parties) -> Order:
    """What was signed. Denied unless an administrator of the project, who may act now, signed it,
    and it has not ended.

    An order from before its maker's key expired is not enough: revoking an administrator ends the
    jobs too.
    """
    kinds = {**_COMMON, "until": float, "experiment": dict}
    order = Order(**_believed("order", text, parties, kinds))
    # In numbers first: not every one is a date.
    left = order.until - time.time()
    if left > LONGEST_DAYS * 86400:
        raise Denied(f"an order that ends in more than {LONGEST_DAYS} days")
    if left <= 0:
        raise Denied("an order that has ended")
    return order


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """The word of `requester`, any administrator of the project, that a job is over."""

    project: str
    job: str
    requester: str
    at: float
    """Seconds since 1970."""

    def signed(self, identity: SiloKey) -> str:
        """The word as it travels."""
        return _signed("cancel", asdict(self), identity)


def read_cancellation(text: str, parties: Parties) -> Cancellation:
    """What was signed. Denied unless an administrator, who may act now, signed it."""
    return Cancellation(**_believed("cancel", text, parties, _COMMON))


_Kind = Literal["order", "cancel"]
_COMMON = {"project": str, "job": str, "requester": str, "at": float}


def _signed(kind: _Kind, facts: Mapping[str, Any], identity: SiloKey) -> str:
    return json.dumps({kind: facts, "signature": identity.sign(_facts(kind, facts))})


def _facts(kind: _Kind, facts: Mapping[str, Any]) -> bytes:
    # The first line keeps kinds apart: no other signature of this key is one of an order.
    return f"privet {kind} 1\n".encode() + json.dumps(facts, sort_keys=True).encode()


def _believed(
    kind: _Kind, text: str, parties: Parties, kinds: Mapping[str, type]
) -> dict[str, Any]:
    """What an administrator signed, with fields of exactly these types."""
    what = "an order" if kind == "order" else "a cancel"
    raw, signature = _parsed(kind, text)
    # Exactly: to `isinstance`, true is a number.
    if {key: type(value) for key, value in raw.items()} != kinds:
        raise Denied(f"{what} is malformed")
    if not re.fullmatch(f"[0-9a-f]{{{2 * _ID_BYTES}}}", raw["job"]):
        raise Denied(f"{what} is malformed")
    # Keys may be in several projects: an order for one is none in another.
    if raw["project"] != parties.project:
        raise Denied(f"{what} for project {raw['project'][:64]!r}, not {parties.project!r}")
    party = parties.named(raw["requester"])
    if party is None or party.role != "admin":
        raise Denied(f"{what} by {raw['requester'][:64]!r}, who is no administrator")
    if not signed_by(party.identity, _facts(kind, raw), signature):
        raise Denied(f"{what} that {raw['requester']} did not sign")
    if fault := party.fault(datetime.now(UTC)):
        raise Denied(fault)
    return raw


def _parsed(kind: _Kind, text: str) -> tuple[dict[str, Any], str]:
    try:
        if len(text) > LARGEST:
            raise ValueError
        whole = json.loads(text)
        order, signature = whole[kind], whole["signature"]
        if not (isinstance(order, dict) and isinstance(signature, str) and len(whole) == 2):
            raise ValueError
        # What no JSON of others' may hold (NaN, half a surrogate pair) is in no answer about jobs.
        json.dumps(order, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Denied(f"{'an order' if kind == 'order' else 'a cancel'} is malformed") from None
    return order, signature
