"""What a silo may be asked to do: only what an administrator of the project ordered and signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from privet.deployment.parties import Parties, SiloKit
from privet.deployment.parties.orders import ORDER_KEY, read_order
from privet.deployment.parties.requests import Denied
from privet.errors import PrivetError
from privet.experiment import Experiment

OWN_PARTS = "own-parts"
"""The folder, within a silo's state, of its own parts of models."""

ALLOWED = frozenset({ORDER_KEY})
"""Nothing else of what a server says about a run is listened to."""


@dataclass(frozen=True)
class OrderedJob:
    """An order that this silo believes, in the form in which the ClientApp is told of it."""

    id: str
    requester: str
    number: int
    """The job as a Flower run id: the same whenever the server starts it anew."""
    order: str
    """SHA-256 of the order."""
    until: datetime
    text: str
    """The order as it was signed."""
    run_config: Mapping[str, Any]


def believed(settings: Mapping[str, Any], parties: Parties) -> OrderedJob:
    """The job of a Flower run; Denied unless it is a valid order.

    Whatever app the run names or brings is of no interest: nothing of it is fetched.
    """
    text = settings.get(ORDER_KEY)
    if not isinstance(text, str):
        raise Denied("a run without an administrator's order")
    order = read_order(text, parties)
    try:
        run_config = order.settings().to_run_config()
    except PrivetError:
        raise
    # Numbers too large for a float, lists in lists: whatever stands there, the silo goes on.
    except Exception as error:
        text = f"the settings of job {order.job} make no sense ({type(error).__name__})"
        raise Denied(text) from error
    return OrderedJob(
        id=order.job,
        requester=order.requester,
        # The ledger recognises the job by it after a restart; Flower's own number is then another.
        number=int(order.job, 16),
        order=order.digest,
        until=order.end,
        text=text,
        run_config=run_config,
    )


def node_config(kit: SiloKit, job: OrderedJob, *, roster: Path) -> dict[str, Any]:
    """What the guard, the keyring and the data of this silo start from, for one job."""
    config: dict[str, Any] = {
        "name": kit.name,
        **kit.data_settings(Experiment.from_run_config(job.run_config)),
        "requester": job.requester,
        "job": job.id,
        "order": job.order,
        "until": job.until.timestamp(),
        "policy": str(kit.policy),
        "ledger": str(kit.ledger),
        # One key for both: what opens the ledger's signatures and what others know the silo by.
        "key": str(kit.identity),
        "identity": str(kit.identity),
        "keys": str(kit.keys),
        "models": str(kit.models),
        "own-parts": str(kit.state / OWN_PARTS),
        "roster": str(roster),
        "device": kit.device,
        "precision": kit.precision,
        "canaries": kit.canaries,
        "canaries-dir": str(kit.state / "canaries" / job.id),
    }
    if kit.part is not None:
        config["partition-id"], config["num-partitions"] = kit.part
    return config
