"""The outcome of a run as `summary.json`, a versioned contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privet.experiment import Experiment
from privet.server.accounts import Accounts
from privet.server.rounds import RunOutcome

SCHEMA = 1
ACCOUNTANT = "PLD, grid 1e-3, add-or-remove-one-record adjacency"


def summarise(experiment: Experiment, outcome: RunOutcome, *, seconds: float) -> dict[str, Any]:
    """Absent parts are null. `seconds` is the wall time of this process's part of the run."""
    last = outcome.entries[-1]
    updates = sum(len(entry["participants"]) for entry in outcome.entries)
    spent = {
        part: sum(entry["seconds"].get(part, 0.0) for entry in outcome.entries)
        for part in ("total", "training", "aggregation", "evaluation")
    }
    return {
        "schema": SCHEMA,
        "task": experiment.task,
        "rounds": experiment.rounds,
        "seed": experiment.seed,
        "accuracy": last["accuracy"],
        "loss": last["loss"],
        "metrics": last["metrics"],
        "evaluation": _evaluation(outcome.entries),
        "stopped": outcome.stopped and {"round": last["round"], "reason": outcome.stopped},
        "epsilon": _epsilon(outcome.accounts, outcome.silos),
        "encryption": outcome.encryption,
        "seconds": {
            "total": seconds,
            "training": spent["training"],
            "aggregation": spent["aggregation"],
            "encryption": None,
        },
        "client_updates": updates,
        "client_updates_per_second": updates / spent["total"] if spent["total"] else None,
    }


def _evaluation(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last one on the silos' own records: means, and what each silo let out."""
    measured = [entry for entry in entries if entry["evaluation"]]
    if not measured:
        return None
    last = measured[-1]
    kept = ("metrics", "per_silo", "released")
    return {"round": last["round"], **{part: last["evaluation"][part] for part in kept}}


def _epsilon(accounts: Accounts | None, silos: tuple[str, ...]) -> dict[str, Any] | None:
    if accounts is None:
        return None
    checks = accounts.cross_checks()
    return {
        "unit": "record",
        **accounts.entry(silos),
        "delta": accounts.delta,
        "accountant": ACCOUNTANT,
        "cross_checks": None
        if checks is None
        else {
            "pld": checks.pld,
            "rdp": checks.rdp,
            "prv": checks.prv,
            "agree": not checks.problems,
            "problems": list(checks.problems),
            "notes": list(checks.notes),
        },
    }
