"""Rounds as a run writes them down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from privet.record.history import RoundRecord

QUIET: dict[str, Any] = {
    "loss": 0.5,
    "accuracy": 0.8,
    "metrics": {"accuracy": 0.8},
    "per_silo": None,
    "participants": [],
    "failures": [],
    "refused": {},
    "dropped": [],
    "arrived": {},
    "evaluation": None,
    "events": None,
    "bytes": {"down": 100, "up": 50},
    "seconds": {
        "total": 0.2,
        "training": 0.1,
        "aggregation": 0.01,
        "evaluation": 0.05,
        "encryption": None,
    },
    "epsilon": None,
    "affordable": None,
    "skipped": None,
}
"""A round in which nothing happened, without its number."""


def a_round(number: int, **told: Any) -> RoundRecord:
    return RoundRecord.strictly({"round": number, **QUIET, **told})


def history(folder: Path) -> list[dict[str, Any]]:
    """The lines, as anybody may read them."""
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
