"""Jobs on a `Trial`: what is submitted, what became of it, and what must not be left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from privet import Experiment
from privet.deployment.trial import SERVER, Trial

OVER = ("finished", "failed", "cancelled")
UNFINISHED = (".*", "*.part", "*.tmp", "*.new", "*.draft", "*.offer", "unanswered.*")
PRIVATE = {
    "task": "digits",
    "rounds": 12,
    "round_timeout": 30,
    "federation": {"silos": 3, "min_silos": 2},
    "training": {"batch_size": 72, "lr": 1.0},
    "privacy": {"noise_multiplier": 6.0},
    "encryption": {"scheme": "bfv"},
}
PLAIN = {
    "task": "digits",
    "rounds": 12,
    "round_timeout": 60,
    "federation": {"silos": 3, "min_silos": 3},
    # The whole silo in every step, so that the order of records decides nothing but rounding.
    "training": {"batch_size": 1000, "lr": 0.5, "steps": 2},
}


def begun(trial: Trial, settings: dict[str, Any]) -> str:
    trial.start()
    trial.wait_until_online()
    with trial.client() as client:
        return client.submit(Experiment.from_mapping(settings))


def history(trial: Trial, job: str) -> list[dict[str, Any]]:
    lines = (trial.kit(SERVER) / "state/jobs" / job / "run/history.jsonl").read_text()
    return [json.loads(line) for line in lines.splitlines()]


def leftovers(trial: Trial) -> list[Path]:
    """What only a process that was killed leaves in a kit."""
    return [path for kind in UNFINISHED for path in trial.folder.rglob(kind)]
