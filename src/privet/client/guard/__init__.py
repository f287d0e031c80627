"""Between a job and the records: the policy decides, the ledger is charged, then they are used.

A real silo's node configuration names four things, and without them nothing runs:

    policy    the data holder's policy file         ledger    the silo's ledger
    key       the key that signs the ledger         dataset   the data set's name in both
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from privet.client.guard.guard import LedgerFiles, LedgerGuard
from privet.client.guard.judging import (
    Asking,
    EvaluationPermit,
    Guard,
    Prospect,
    RefusedByPolicy,
    TrainingPermit,
    Unguarded,
    code_hash,
    what_if,
)

__all__ = [
    "Asking",
    "EvaluationPermit",
    "Guard",
    "LedgerFiles",
    "Prospect",
    "RefusedByPolicy",
    "TrainingPermit",
    "code_hash",
    "open_guard",
    "what_if",
]

SIMULATED_JOB = "simulation"
_SETTINGS = ("policy", "ledger", "key", "dataset")


def open_guard(context: Context) -> Guard:
    """The guard that the node's own configuration asks for; Refused when it is incomplete.

    A node that holds a share of one place's records ("num-partitions") is part of a simulation:
    whoever runs it has all records anyway. Flower's own simulation keeps no ledger; privet's gives
    its nodes ("simulated") one, and a policy if it was asked for.
    """
    node = context.node_config
    simulated = bool(node.get("simulated"))
    if "num-partitions" in node and "ledger" not in node:
        return Unguarded()
    missing = [name for name in _SETTINGS if name not in node]
    if missing and not (simulated and missing == ["policy"]):
        raise RefusedByPolicy(
            f"this silo has no {', '.join(missing)} in its node configuration, so nothing may run; "
            "begin with: privet policy init policy.toml"
        )
    asking = Asking(
        dataset=str(node["dataset"]),
        requester=str(node.get("requester", "unknown")),
        job=SIMULATED_JOB if simulated else str(node.get("job", context.run_id)),
    )
    policy = Path(str(node["policy"])) if "policy" in node else None
    books = LedgerFiles(Path(str(node["ledger"])), Path(str(node["key"])), simulated)
    return LedgerGuard(books, policy, asking)
